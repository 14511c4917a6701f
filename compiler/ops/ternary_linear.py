"""Ternary linear: a linear layer whose weights are -1, 0 or 1 times one scale (BitNet b1.58)."""

from __future__ import annotations

from dataclasses import replace

from .declaration import Field, Fields, Inputs, Op, ParameterSpec
from .linear import LINEAR

WEIGHTS_PER_BYTE = 4
SCALE_BYTES = 4


def _parameters(fields: Fields, inputs: Inputs) -> tuple[ParameterSpec, ...]:
    """Trained as floating-point numbers; rows of four weights share a byte once packed, beside one float32 scale."""
    weight, *others = LINEAR.parameters(Fields({**fields.values, "layout": "out_in"}), inputs)
    out, width = weight.shape
    packed = -(-out // WEIGHTS_PER_BYTE) * width + SCALE_BYTES
    return (replace(weight, packed_bytes=packed), *others)


TERNARY_LINEAR = Op(
    name="ternary_linear",
    summary="Matrix product with weights rounded to -1, 0 or 1 times their mean magnitude, and int8 activations",
    ports=LINEAR.ports,
    fields=(
        *(f for f in LINEAR.fields if f.name != "layout"),
        Field(
            name="activation_bits",
            kind="int",
            doc="Bits of an activation, scaled per token; null: not rounded",
            default=8,
            is_nullable=True,
            minimum=2,
        ),
    ),
    infer=LINEAR.infer,
    parameters=_parameters,
    flops=LINEAR.flops,
    operands=("activation_bits",),
    reference="ternary:ternary_linear",
)
