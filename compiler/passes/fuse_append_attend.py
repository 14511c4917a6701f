"""Joins attention with the append of the keys that it alone reads: for GPUs, where at one token both are one launch.

rewrite: s1, keys, values, at, q1 = rope_kv_full_append(s0, k, v, table, q); y = attend_cached(q1, keys, values, at)
  ->  y, s1 = append_attend(s0, q, k, v, table)
rewrite: the same where q and k are heads that only it reads, normed alike: q = rms_norm(a); k = rms_norm(b)
  ->  y, s1 = append_attend(s0, a, b, v, table, norms)
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from ..lowered import Lowered, Module, insert_op, is_op, site_of, type_of
from ..ops.append_attend import APPEND_ATTEND
from ..ops.declaration import Fields, Value
from ..rewrite import operand, parameters_of

APPENDS = ("kv_full_append", "kv_window_append", "rope_kv_full_append", "rope_kv_window_append")
READ = ("keys", "values", "key_position")
KEPT = ("q", "distance_bias", "sink")
"""What attention reads beside the cache."""


def fuse_append_attend(module: Module) -> int:
    """Returns the number of pairs joined. Nodes that `x-kernels` names stay as they are."""
    count = 0
    for lowered in module.definitions.values():
        for node, site in lowered.sites():
            if site.op.name in APPENDS and not module.is_named(site):
                count += _fuse(module, lowered, node)
    return count


def _fuse(module: Module, lowered: Lowered, append: fx.Node) -> int:
    parts = {list(site_of(append).types)[int(str(item.args[1]))]: item for item in append.users}
    readers = {user for name in READ if name in parts for user in parts[name].users}
    attend = readers.pop() if len(readers) == 1 else None
    if attend is None or not _is_joinable(module, attend, append, parts):
        return 0
    site, found = site_of(append), site_of(attend)
    q = operand(append, "q") if "q" in parts else operand(attend, "q")
    inputs = {"q": q, "k": operand(append, "k")}
    norms = _norms(inputs["q"], inputs["k"], site.fields.int("key_dim"))
    if norms:
        inputs = {name: operand(norm, "x") for name, norm in norms.items()}
    inputs["v"] = operand(append, "v")
    inputs |= {"table": operand(append, "table")} if "table" in append.kwargs else {}
    inputs |= {name: operand(attend, name) for name in KEPT[1:] if name in attend.kwargs}
    fields = {field.name: field.default for field in APPEND_ATTEND.fields} | _fields(append, attend, norms)
    with lowered.graph.inserting_before(attend):
        fused = insert_op(
            lowered.graph,
            op=APPEND_ATTEND,
            path=found.path,
            fields=Fields(fields),
            inputs={**inputs, **{name: operand(append, name) for name in APPEND_ATTEND.ambient}},
            parameters={f"{name}_norm_weight": operand(norm, "weight") for name, norm in norms.items()},
            span=found.span,
            state=operand(append, "state"),
        )
    attend.replace_all_uses_with(fused["out"])
    parts["state"].replace_all_uses_with(fused["state"])
    for node in (attend, *parts.values(), append, *norms.values()):
        lowered.graph.erase_node(node)
    return 1


def _is_joinable(module: Module, attend: fx.Node, append: fx.Node, parts: Mapping[str, fx.Node]) -> bool:
    """It alone reads all of the keys, values and positions, and queries that are turned as the keys are."""
    if not is_op(attend, "attend_cached") or module.is_named(site_of(attend)) or "bias" in attend.kwargs:
        return False
    values = site_of(attend).fields.values
    if values["mask"] != "causal" or values["head_dim"] != site_of(append).fields["key_dim"]:
        return False
    if any(name not in parts or attend.kwargs.get(name) is not parts[name] for name in READ):
        return False
    if "table" not in append.kwargs:
        return "q" not in parts
    return "q" in parts and attend.kwargs["q"] is parts["q"] and parts["q"].users.keys() == {attend}


def _fields(append: fx.Node, attend: fx.Node, norms: Mapping[str, fx.Node]) -> dict[str, Value]:
    of_append, of_attend = site_of(append).fields.values, site_of(attend).fields.values
    found: dict[str, Value] = {name: of_append[name] for name in ("heads", "key_dim", "value_dim")}
    found |= {"ring": of_append.get("window")}
    found |= {name: of_append[name] for name in ("rotary_dim", "layout") if name in of_append}
    found |= {name: of_attend[name] for name in ("window", "chunk", "scale", "softcap", "alibi")}
    if norms:
        norm = site_of(norms["q"]).fields.values
        found |= {"norm_eps": norm["eps"], "norm_offset": norm["weight_offset"]}
    return found


def _norms(q: fx.Node, k: fx.Node, head_dim: int) -> dict[str, fx.Node]:
    """The norms of query and key heads, where nothing else reads them and both are alike but for the weight."""
    for one in (q, k):
        if not is_op(one, "rms_norm") or len(one.users) != 1 or "weight" not in parameters_of(one):
            return {}
        values = site_of(one).fields.values
        if values["head_dim"] != head_dim or type_of(operand(one, "weight")).shape != (head_dim,):
            return {}
    fields = [site_of(one).fields.values for one in (q, k)]
    alike = all(fields[0][name] == fields[1][name] for name in ("eps", "weight_offset"))
    return {"q": q, "k": k} if alike and q is not k else {}
