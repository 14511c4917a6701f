"""Gated activation whose gate and up are the halves of one value."""

from __future__ import annotations

from collections.abc import Mapping

from .activation import ACTIVATION
from .costs import one_flop
from .declaration import Fields, Inputs, Op, Port, TensorType
from .shapes import known


def _infer(_fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    return {"out": inputs["x"].with_features(known(inputs["x"].features, "the width", "x") // 2)}


GATED_ACTIVATION_PACKED = Op(
    name="gated_activation_packed",
    summary="activation(x[..., :F]) * x[..., F:], both halves from one projection",
    ports=(Port(name="x", doc="[..., 2*F]"),),
    fields=ACTIVATION.fields,
    infer=_infer,
    flops=one_flop,
    operands=("kind",),
    reference="pointwise:gated_activation_packed",
    is_internal=True,
)
