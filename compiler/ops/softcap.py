"""Softcap: a value bent smoothly below a bound."""

from __future__ import annotations

from .costs import one_flop
from .declaration import Field, Op, Port
from .shapes import same_as_input

SOFTCAP = Op(
    name="softcap",
    summary="cap * tanh(x / cap)",
    ports=(Port(name="x", doc="[...]"),),
    fields=(Field(name="cap", kind="float", doc="Largest magnitude", is_required=True, minimum=0),),
    infer=same_as_input,
    flops=one_flop,
    operands=("cap",),
    reference="pointwise:softcap",
)
