"""Ternary linears of one value, fused with the RMS norm before them and the residual add before that."""

from __future__ import annotations

from dataclasses import replace

from .add_rms_norm_linear import ADD_RMS_NORM_LINEAR
from .rms_norm_ternary_projection import RMS_NORM_TERNARY_PROJECTION

ADD_RMS_NORM_TERNARY_PROJECTION = replace(
    RMS_NORM_TERNARY_PROJECTION,
    name="add_rms_norm_ternary_projection",
    summary="sum = delta + residual; out = rms_norm_ternary_projection(sum)",
    ports=ADD_RMS_NORM_LINEAR.ports,
    outputs=ADD_RMS_NORM_LINEAR.outputs,
    infer=ADD_RMS_NORM_LINEAR.infer,
    reference="ternary:add_rms_norm_ternary_projection",
)
