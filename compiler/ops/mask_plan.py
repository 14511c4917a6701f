"""Which blocks of keys the queries of a block see: once a call for all layers of one mask."""

from __future__ import annotations

from collections.abc import Mapping

from .attention import ATTENTION
from .declaration import Field, Fields, Inputs, Op, Port, TensorType

_FIELDS = (
    Field(
        name="keys",
        kind="str",
        doc="What the columns are: the call's tokens, slots of a cache, or the call's tokens behind a ring",
        default="tokens",
        choices=("tokens", "cache", "ring"),
    ),
    *(ATTENTION.field_index[name] for name in ("mask", "window", "chunk")),
    Field(name="by_keys", kind="bool", doc="Rows are keys, for gradients", default=False),
)


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    rows = inputs.get("key_position", inputs["position"]) if fields.bool("by_keys") else inputs["position"]
    return {"out": TensorType(shape=(rows.shape[0], f"{rows.shape[1]}_blocks", 5), dtype="int32")}


MASK_PLAN = Op(
    name="mask_plan",
    summary="Which blocks of keys the queries of a block see, found once per call for all layers of one mask",
    ports=(
        Port(name="position", doc="[B, T] int64"),
        Port(name="key_position", doc="[B, S] int64, of keys on another axis", is_optional=True),
        Port(name="lengths", doc="[B] int64, where the keys are a ring", is_optional=True),
    ),
    fields=_FIELDS,
    infer=_infer,
    operands=tuple(field.name for field in _FIELDS),
    is_internal=True,
    is_tokenwise=False,
    reference="attention:mask_plan",
)
