"""Activation: an elementwise nonlinearity."""

from __future__ import annotations

from .costs import one_flop
from .declaration import Field, Op, Port
from .shapes import same_as_input

ACTIVATIONS = (
    "gelu", "gelu_tanh", "gelu_quick", "relu", "relu2", "silu", "sigmoid", "tanh", "softplus", "exp", "identity",
)  # fmt: skip

ACTIVATION = Op(
    name="activation",
    summary="An elementwise nonlinearity",
    ports=(Port(name="x", doc="[...]"),),
    fields=(Field(name="kind", kind="str", doc="The function", is_required=True, choices=ACTIVATIONS),),
    infer=same_as_input,
    flops=one_flop,
    operands=("kind",),
    reference="pointwise:activation",
)
