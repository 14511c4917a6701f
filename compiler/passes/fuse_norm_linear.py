"""Takes an RMS norm into the projection that alone reads it: for GPUs, where at one token both are one launch.

rewrite: n, s = add_rms_norm(d, r); y = linear(n)  ->  y, s = add_rms_norm_linear(d, r)
rewrite: n = rms_norm(x); y = gated_linear(n)      ->  y = rms_norm_linear(x, kind)
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import cast

from torch import fx

from ..lowered import Lowered, Module, is_op, site_of, type_of
from ..ops.add_rms_norm_linear import ADD_RMS_NORM_LINEAR
from ..ops.declaration import Op
from ..ops.rms_norm_linear import RMS_NORM_LINEAR
from ..rewrite import insert_before, operand, parameters_of

FUSED = {"rms_norm": RMS_NORM_LINEAR, "add_rms_norm": ADD_RMS_NORM_LINEAR}


def fuse_norm_linear(module: Module) -> int:
    """Returns the number of norms taken in."""
    count = 0
    for lowered in module.definitions.values():
        for node, site in lowered.sites():
            if site.op.name in ("linear", "gated_linear"):
                count += take_norm(lowered, node, FUSED)
    return count


def fuse_norm_packed(module: Module, formats: Mapping[str, Mapping[str, str]]) -> int:
    """Returns the number of norms taken into matrices that are packed as ternary, by definition and placeholder.

    Their launch rounds the normed token as the apart ones do. Other formats have no kernel that norms.
    """
    count = 0
    for name, wanted in formats.items():
        lowered = module.definitions[name]
        for node, site in lowered.sites():
            if site.op.name in ("linear", "gated_linear") and wanted.get(str(node.kwargs.get("weight"))) == "ternary":
                count += take_norm(lowered, node, FUSED)
    return count


def take_norm(lowered: Lowered, linear: fx.Node, fused_ops: Mapping[str, Op]) -> int:
    """Put the op for its norm in the place of a projection, if there is one that nothing else reads; 1 if so."""
    value = operand(linear, "x")
    norm = cast("fx.Node", value.args[0]) if value.target is operator.getitem else value
    if len(value.users) != 1 or not any(is_op(norm, name) for name in fused_ops):
        return 0
    site, found = site_of(norm), site_of(linear)
    if site.fields.values.get("head_dim") is not None:
        return 0
    parameters = {f"norm_{name}": node for name, node in parameters_of(norm).items()}
    fused = insert_before(
        norm,
        op=fused_ops[site.op.name],
        path=found.path,
        fields={**site.fields.values, **found.fields.values, "features": type_of(linear).features},
        inputs={port.name: operand(norm, port.name) for port in site.op.ports},
        parameters={**parameters_of(linear), **parameters},
        like=linear,
    )
    linear.replace_all_uses_with(fused["out"])
    lowered.graph.erase_node(linear)
    for item in list(norm.users):
        if item is not value:
            item.replace_all_uses_with(fused["sum"])
        lowered.graph.erase_node(item)
    lowered.graph.erase_node(norm)
    return 1
