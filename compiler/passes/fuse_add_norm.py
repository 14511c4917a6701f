"""Makes one op of a residual add and the norm that reads it.

rewrite: s = add(r, d); n = norm(s)  ->  n, s = add_norm(d, r)
"""

from __future__ import annotations

from torch import fx

from ..lowered import Lowered, Module, is_op, site_of, type_of
from ..ops.add_layer_norm import ADD_LAYER_NORM
from ..ops.add_rms_norm import ADD_RMS_NORM
from ..rewrite import insert_before, operand, parameters_of

FUSED = {"rms_norm": ADD_RMS_NORM, "layer_norm": ADD_LAYER_NORM}


def fuse_add_norm(module: Module) -> int:
    """Returns the number of pairs fused."""
    count = 0
    for lowered in module.definitions.values():
        for node, _ in lowered.sites():
            if is_op(node, "add"):
                count += _fuse(lowered, node)
    return count


def _fuse(lowered: Lowered, total: fx.Node) -> int:
    residual, delta = operand(total, "a"), operand(total, "b")
    if type_of(residual) != type_of(delta):
        return 0
    norm = next((user for user in total.users if any(is_op(user, name) for name in FUSED)), None)
    if norm is None or site_of(norm).fields.values.get("head_dim") is not None:
        return 0
    site = site_of(norm)
    fused = insert_before(
        total,
        op=FUSED[site.op.name],
        path=site.path,
        fields=site.fields.values,
        inputs={"delta": delta, "residual": residual},
        parameters=parameters_of(norm),
        like=norm,
    )
    norm.replace_all_uses_with(fused["out"])
    lowered.graph.erase_node(norm)
    total.replace_all_uses_with(fused["sum"])
    lowered.graph.erase_node(total)
    return 1
