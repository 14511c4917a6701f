"""Cross KV append: the keys and values of another axis become the state that all later tokens read."""

from __future__ import annotations

from collections.abc import Mapping

from .appends import size_fields
from .declaration import Fields, Inputs, Op, Port, TensorType


def _infer(_fields: Fields, _inputs: Inputs) -> Mapping[str, TensorType]:
    return {"state": TensorType(shape=())}


CROSS_KV_APPEND = Op(
    name="cross_kv_append",
    summary="Keep the keys and values of what is given once; yields the state",
    ports=(Port(name="k", doc="[B, S, Hkv*D]"), Port(name="v", doc="[B, S, Hkv*Dv]")),
    fields=size_fields("heads", "key_dim", "value_dim"),
    outputs=("state",),
    infer=_infer,
    operands=("heads", "key_dim", "value_dim"),
    ambient=("position",),
    is_internal=True,
    is_tokenwise=False,
    reference="cache:cross_kv_append",
)
