"""Scale: a value times a factor, plus an offset."""

from __future__ import annotations

from .costs import one_flop
from .declaration import Field, Op, Port
from .shapes import same_as_input

SCALE = Op(
    name="scale",
    summary="x * factor + offset",
    ports=(Port(name="x", doc="[...]"),),
    fields=(
        Field(name="factor", kind="float", doc="The multiplier", is_required=True, is_scalar=True),
        Field(name="offset", kind="float", doc="Added afterwards", default=0.0, is_scalar=True),
    ),
    infer=same_as_input,
    flops=one_flop,
    operands=("factor", "offset"),
    reference="pointwise:scale",
)
