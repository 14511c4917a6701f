"""Gated activation: an activation and the product after it, as one op."""

from __future__ import annotations

from collections.abc import Mapping

from .activation import ACTIVATION
from .costs import one_flop
from .declaration import Fields, Inputs, Op, Port, ShapeProblem, TensorType


def _infer(_fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    if inputs["gate"] != inputs["up"]:
        raise ShapeProblem(f"gate is {inputs['gate']} but up is {inputs['up']}", "up")
    return {"out": inputs["gate"]}


GATED_ACTIVATION = Op(
    name="gated_activation",
    summary="activation(gate) * up",
    ports=(Port(name="gate", doc="[..., F]"), Port(name="up", doc="[..., F]")),
    fields=ACTIVATION.fields,
    infer=_infer,
    flops=one_flop,
    operands=("kind",),
    reference="pointwise:gated_activation",
    is_internal=True,
)
