"""Ternary linears of one value, fused with the RMS norm before them."""

from __future__ import annotations

from dataclasses import replace

from .declaration import Fields, Inputs, Sizes
from .rms_norm_linear import RMS_NORM_LINEAR
from .ternary_projection import TERNARY_PROJECTION


def _flops(fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    rows = 1 if fields.values.get("kind") is None else 2
    return (2.0 * rows * fields.int("features") + 5.0) * next(iter(inputs.values())).count(sizes)


RMS_NORM_TERNARY_PROJECTION = replace(
    TERNARY_PROJECTION,
    name="rms_norm_ternary_projection",
    summary="ternary_projection(rms_norm(x))",
    fields=(
        *(field for field in RMS_NORM_LINEAR.fields if field.name in ("eps", "weight_offset")),
        *TERNARY_PROJECTION.fields,
    ),
    flops=_flops,
    operands=("eps", "weight_offset", *TERNARY_PROJECTION.operands),
    reference="ternary:rms_norm_ternary_projection",
)
