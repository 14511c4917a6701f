"""Rotates new keys on their way into the cache: for GPUs, where each launch and each trip through memory counts.

rewrite: k1 = rope_apply(k, table); s1, … = kv_full_append(s0, k1, v)  ->  s1, … = rope_kv_full_append(s0, k, v, table)
"""

from __future__ import annotations

from torch import fx

from ..lowered import Lowered, Module, insert_op, is_op, site_of
from ..ops.declaration import Fields
from ..ops.rope_kv_full_append import ROPE_KV_FULL_APPEND
from ..ops.rope_kv_window_append import ROPE_KV_WINDOW_APPEND
from ..rewrite import operand

FUSED = {"kv_full_append": ROPE_KV_FULL_APPEND, "kv_window_append": ROPE_KV_WINDOW_APPEND}


def fuse_rope_append(module: Module) -> int:
    """Returns the number of pairs fused."""
    count = 0
    for lowered in module.definitions.values():
        for node, site in lowered.sites():
            if site.op.name in FUSED:
                count += _fuse(lowered, node)
    return count


def _fuse(lowered: Lowered, append: fx.Node) -> int:
    rope, site = operand(append, "k"), site_of(append)
    if not is_op(rope, "rope_apply") or len(rope.users) > 1:
        return 0
    turn = site_of(rope).fields.values
    if turn["head_dim"] != site.fields["key_dim"]:
        return 0
    ambient = {name: operand(append, name) for name in site.op.ambient}
    with lowered.graph.inserting_before(append):
        fused = insert_op(
            lowered.graph,
            op=FUSED[site.op.name],
            path=site.path,
            fields=Fields({**site.fields.values, "rotary_dim": turn.get("rotary_dim"), "layout": turn["layout"]}),
            inputs={"k": operand(rope, "x"), "v": operand(append, "v"), "table": operand(rope, "table"), **ambient},
            parameters={},
            span=site.span,
            state=operand(append, "state"),
        )
    outputs = list(site.types)
    for item in list(append.users):
        item.replace_all_uses_with(fused[outputs[int(str(item.args[1]))]])
        lowered.graph.erase_node(item)
    lowered.graph.erase_node(append)
    lowered.graph.erase_node(rope)
    return 1
