"""The loss of next tokens with the head that makes their logits, which need not exist as a whole."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Inputs, Op, Port, TensorType
from .softcap import SOFTCAP


def _infer(_fields: Fields, _inputs: Inputs) -> Mapping[str, TensorType]:
    return {"out": TensorType(shape=(), dtype="float32")}


LINEAR_CROSS_ENTROPY = Op(
    name="linear_cross_entropy",
    summary="Cross entropy of softcap(hidden @ weight.T) with the target, as one number",
    ports=(
        Port(name="hidden", doc="[B, T, M]"),
        Port(name="weight", doc="[V, M]"),
        Port(name="target", doc="[B, T] int64"),
    ),
    fields=(Field(name="softcap", kind="float", doc=SOFTCAP.fields[0].doc, is_nullable=True),),
    infer=_infer,
    operands=("softcap",),
    reference="cross_entropy:linear_cross_entropy",
    is_internal=True,
    is_tokenwise=False,
)
