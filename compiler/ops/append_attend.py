"""Attention over a cache together with the append before it."""

from __future__ import annotations

from collections.abc import Mapping

from .attend_cached import ATTEND_CACHED
from .attention import span_of
from .declaration import Field, Fields, Inputs, Op, Port, Sizes, TensorType
from .kv_full_append import KV_FULL_APPEND
from .rope_apply import ROPE_APPLY
from .shapes import known

_ATTENTION = tuple(ATTEND_CACHED.field_index[name] for name in ("window", "chunk", "scale", "softcap", "alibi"))
_FIELDS = (
    *KV_FULL_APPEND.fields,
    Field(name="ring", kind="int", doc="Window of a cache that keeps a window; absent: it keeps all", is_nullable=True),
    *(ROPE_APPLY.field_index[name] for name in ("rotary_dim", "layout")),
    Field(name="norm_eps", kind="float", doc="Of the norms of query and key heads", default=0.0),
    Field(name="norm_offset", kind="float", doc="Added to the weights of these norms", default=0.0),
    *_ATTENTION,
)


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    heads = known(inputs["q"].features, "the width of q", "q") // fields.int("key_dim")
    return {"out": inputs["q"].with_features(heads * fields.int("value_dim"))}


def _flops(fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    span = min(sizes["S"], span_of(fields) or sizes["S"])
    heads = inputs["q"].with_features(1).count(sizes) * known(inputs["q"].features, "the width of q", "q")
    return 2.0 * heads * span * (1.0 + fields.int("value_dim") / fields.int("key_dim"))


APPEND_ATTEND = Op(
    name="append_attend",
    summary="Write new keys and values into a cache, heads normed and rotated before, and attend over what it holds",
    ports=(
        Port(name="q", doc="[B, T, H*D]"),
        *KV_FULL_APPEND.ports,
        Port(name="table", doc="[B, T, rotary_dim] float32, by which queries and keys are rotated", is_optional=True),
        *(port for port in ATTEND_CACHED.ports if port.name in ("distance_bias", "sink")),
    ),
    fields=_FIELDS,
    infer=_infer,
    flops=_flops,
    operands=tuple(field.name for field in _FIELDS),
    ambient=("position", "lengths"),
    hints=("plan",),
    is_internal=True,
    is_tokenwise=False,
    reference="attention:append_attend",
)
