"""Linear, plain or gated, fused with the RMS norm before it and the residual add before that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .declaration import Fields, Inputs, Port, ShapeProblem, TensorType
from .rms_norm_linear import RMS_NORM_LINEAR


def _infer_with_sum(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    if inputs["delta"] != inputs["residual"]:
        raise ShapeProblem(f"cannot add {inputs['delta']} to {inputs['residual']}", "residual")
    return {"out": inputs["delta"].with_features(fields.int("features")), "sum": inputs["delta"]}


ADD_RMS_NORM_LINEAR = replace(
    RMS_NORM_LINEAR,
    name="add_rms_norm_linear",
    summary="sum = delta + residual; out = rms_norm_linear(sum)",
    ports=(Port(name="delta", doc="[..., I]"), Port(name="residual", doc="[..., I]")),
    outputs=("out", "sum"),
    infer=_infer_with_sum,
    reference="linear:add_rms_norm_linear",
)
