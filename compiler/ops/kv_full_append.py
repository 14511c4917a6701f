"""Append to a cache that keeps all keys and values."""

from __future__ import annotations

from collections.abc import Mapping

from .appends import appended, size_fields
from .declaration import Fields, Inputs, Op, Port, TensorType


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    heads = fields.int("heads")
    parts = {"keys": (heads, fields.int("key_dim")), "values": (heads, fields.int("value_dim"))}
    return appended(inputs["k"].shape[0], **parts)


KV_FULL_APPEND = Op(
    name="kv_full_append",
    summary="Write new keys and values into the cache; yields its successor and all that may be read",
    ports=(Port(name="k", doc="[B, T, Hkv*D]"), Port(name="v", doc="[B, T, Hkv*Dv]")),
    fields=size_fields("heads", "key_dim", "value_dim"),
    outputs=("state", "keys", "values", "key_position"),
    infer=_infer,
    operands=("heads", "key_dim", "value_dim"),
    ambient=("position", "lengths"),
    is_internal=True,
    is_tokenwise=False,
    reference="cache:kv_full_append",
)
