"""Attention over the keys and values of another attention node: what `cache:` turns an attention into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .attend_cached import ATTEND_CACHED
from .attention import ATTENTION
from .declaration import Fields, Inputs, ShapeProblem, TensorType, no_states
from .shapes import known


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    head_dim, keys, values = fields.int("head_dim"), inputs["keys"].shape, inputs["values"].shape
    v_head_dim, width = fields.opt_int("v_head_dim") or head_dim, known(inputs["q"].features, "the width of q", "q")
    for at, size, found in (("head_dim", head_dim, keys[3]), ("v_head_dim", v_head_dim, values[3])):
        if size != found:
            shown = at if fields.values.get(at) is not None else "head_dim"
            raise ShapeProblem(f"the heads of the cache that is read are {found} wide, not {size}", shown)
    heads, kv_heads = width // head_dim, known(keys[1], "the number of key heads", "cache")
    if width % head_dim or heads % kv_heads:
        raise ShapeProblem(f"q is {width} wide, which does not make heads of {head_dim} for {kv_heads} key heads", "q")
    return ATTEND_CACHED.infer(fields, inputs)


ATTEND_SHARED = replace(
    ATTENTION,
    name="attend_shared",
    summary="Attention over the keys and values of another attention node",
    ports=ATTEND_CACHED.ports,
    infer=_infer,
    states=no_states,
    flops=ATTEND_CACHED.flops,
    ambient_of={},
    cached_ports=(),
    is_internal=True,
    reference="attention:attend_cached",
)
