"""position_scale: a factor that grows with the logarithm of a token's position, so that queries stay sharp far out."""

from __future__ import annotations

from .costs import one_flop
from .declaration import Field, Op, Port
from .shapes import same_as_input

POSITION_SCALE = Op(
    name="position_scale",
    summary="x * (1 + scale * log(1 + floor((position + offset) / period)))",
    ports=(Port(name="x", doc="[B, T, M]"),),
    fields=(
        Field(name="scale", kind="float", doc="Strength of the growth; 0: none", is_required=True),
        Field(name="period", kind="int", doc="Tokens before it first grows", is_required=True, minimum=1),
        Field(name="offset", kind="int", doc="Added to the position; 1 counts the token itself", default=0, minimum=0),
    ),
    infer=same_as_input,
    flops=one_flop,
    operands=("scale", "period", "offset"),
    ambient=("position",),
    reference="pointwise:position_scale",
)
