"""Rotates new keys on their way into the cache, and the queries of its reader with them: for GPUs, where each launch
and each trip through memory counts.

rewrite: k1 = rope_apply(k, table); q1 = rope_apply(q, table); s1, … = kv_full_append(s0, k1, v)
  ->  s1, …, q1 = rope_kv_full_append(s0, k, v, table, q)
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
    queries = _queries_turned_alike(append, rope)
    inputs = {"k": operand(rope, "x"), "v": operand(append, "v"), "table": operand(rope, "table")}
    if queries is not None:
        inputs["q"] = operand(queries, "x")
    with lowered.graph.inserting_before(append):
        fused = insert_op(
            lowered.graph,
            op=FUSED[site.op.name],
            path=site.path,
            fields=Fields({**site.fields.values, "rotary_dim": turn.get("rotary_dim"), "layout": turn["layout"]}),
            inputs={**inputs, **{name: operand(append, name) for name in site.op.ambient}},
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
    if queries is not None:
        queries.replace_all_uses_with(fused["q"])
        lowered.graph.erase_node(queries)
    return 1


def _queries_turned_alike(append: fx.Node, rope: fx.Node) -> fx.Node | None:
    """The rope of the queries that read these keys, if it is the keys' own in all but what it turns.

    It must come before the append, so that whatever reads it comes after.
    """
    readers = dict.fromkeys(user for item in append.users for user in item.users if is_op(user, "attend_cached"))
    found = dict.fromkeys(operand(reader, "q") for reader in readers)
    before = list(append.graph.nodes)
    before = before[: before.index(append)]
    for queries in found:
        if (
            is_op(queries, "rope_apply")
            and queries in before
            and queries.users.keys() <= readers.keys()
            and operand(queries, "table") is operand(rope, "table")
            and site_of(queries).fields.values == site_of(rope).fields.values
        ):
            return queries
    return None
