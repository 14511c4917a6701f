"""Shared keys: the keys and values of an attention node, as a later node with `cache:` reads them."""

from __future__ import annotations

from collections.abc import Mapping

from .attention import ATTENTION
from .declaration import Field, Fields, Inputs, Op, Port, TensorType
from .shapes import known


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    k, v, size = inputs["k"], inputs["v"], fields.int("head_dim")
    v_size, heads = fields.opt_int("v_head_dim") or size, known(k.features, "the width of k", "k") // size
    return {
        "keys": TensorType(shape=(k.shape[0], heads, "S", size)),
        "values": TensorType(shape=(v.shape[0], heads, "S", v_size)),
        "key_position": TensorType(shape=(k.shape[0], "S"), dtype="int64"),
    }


SHARED_KEYS = Op(
    name="shared_keys",
    summary="The keys and values that the attention `of` sees: of this call, or with a cache what its state gives",
    ports=(Port(name="k", doc="[B, T, Hkv*D]"), Port(name="v", doc="[B, T, Hkv*Dv]")),
    fields=(
        Field(name="of", kind="str", doc="Path of the attention node", is_required=True),
        ATTENTION.field_index["head_dim"],
        ATTENTION.field_index["v_head_dim"],
    ),
    outputs=("keys", "values", "key_position"),
    infer=_infer,
    operands=("head_dim", "v_head_dim"),
    ambient=("position",),
    is_internal=True,
    is_tokenwise=False,
    reference="cache:shared_keys",
)
