"""Cross KV read: the keys and values that a `cross_kv` state holds."""

from __future__ import annotations

from collections.abc import Mapping

from .appends import appended, size_fields
from .declaration import Fields, Inputs, Op, TensorType


def _infer(fields: Fields, _inputs: Inputs) -> Mapping[str, TensorType]:
    heads = fields.int("heads")
    return appended("B", keys=(heads, fields.int("key_dim")), values=(heads, fields.int("value_dim")))


CROSS_KV_READ = Op(
    name="cross_kv_read",
    summary="Keys, values and positions out of a cross_kv state, which stays as it is",
    ports=(),
    fields=size_fields("heads", "key_dim", "value_dim"),
    outputs=("state", "keys", "values", "key_position"),
    infer=_infer,
    is_internal=True,
    is_tokenwise=False,
    reference="cache:cross_kv_read",
)
