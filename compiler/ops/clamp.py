"""Clamp: a value held within bounds."""

from __future__ import annotations

from .costs import one_flop
from .declaration import Field, Op, Port
from .shapes import same_as_input

CLAMP = Op(
    name="clamp",
    summary="x within bounds",
    ports=(Port(name="x", doc="[...]"),),
    fields=(
        Field(name="min", kind="float", doc="Least value; absent: none", is_nullable=True),
        Field(name="max", kind="float", doc="Largest value; absent: none", is_nullable=True),
    ),
    infer=same_as_input,
    flops=one_flop,
    operands=("min", "max"),
    reference="pointwise:clamp",
)
