"""Dropout: a share of the elements zeroed in training."""

from __future__ import annotations

from .declaration import Field, Op, Port
from .shapes import same_as_input

DROPOUT = Op(
    name="dropout",
    summary="Zero a share of the elements in training, identity otherwise",
    ports=(Port(name="x", doc="[...]"),),
    fields=(Field(name="p", kind="float", doc="The share", is_required=True, minimum=0),),
    infer=same_as_input,
    operands=("p",),
    reads_training=True,
    reference="pointwise:dropout",
)
