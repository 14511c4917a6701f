"""Makes one matrix of ternary linears that read the same value, the gate with it: for GPUs, where each is a launch.

rewrite: q = ternary_linear(x, Wq); k = ternary_linear(x, Wk)  ->  q, k = split(ternary_projection(x, concat(Wq, Wk)))
rewrite: gated_activation(ternary_linear(x, Wg), ternary_linear(x, Wu))  ->  ternary_projection(x, concat(Wg, Wu), kind)
"""

from __future__ import annotations

from torch import fx

from ..lowered import Lowered, Module, is_op, site_of
from ..ops.ternary_projection import TERNARY_PROJECTION
from ..rewrite import erase_placeholders, insert_before, operand
from .fuse_projections import fused_path, merge, merged_parameters, owns_its_parameters


def fuse_ternary_projections(module: Module) -> int:
    """Returns the number of matrices made."""
    return sum(_fuse_gates(lowered) + _fuse_others(lowered) for lowered in module.definitions.values())


def _fuse_gates(lowered: Lowered) -> int:
    count = 0
    for node, _ in lowered.sites():
        if is_op(node, "gated_activation"):
            pair = [operand(node, "gate"), operand(node, "up")]
            if all(_can_merge(lowered, one) and len(one.users) == 1 for one in pair) and _key(pair[0]) == _key(pair[1]):
                _fuse_gate(lowered, node, pair)
                count += 1
    return count


def _fuse_others(lowered: Lowered) -> int:
    groups: dict[tuple[object, ...], list[fx.Node]] = {}
    for node, _ in lowered.sites():
        if _can_merge(lowered, node):
            groups.setdefault(_key(node), []).append(node)
    merged = [nodes for nodes in groups.values() if len(nodes) > 1]
    for nodes in merged:
        merge(lowered, nodes, TERNARY_PROJECTION, {"parts": _rows(nodes)})
    return len(merged)


def _can_merge(lowered: Lowered, node: fx.Node) -> bool:
    return is_op(node, "ternary_linear") and owns_its_parameters(lowered, node)


def _key(node: fx.Node) -> tuple[object, ...]:
    """What layers must have in common to be one."""
    return operand(node, "x"), "bias" in node.kwargs, site_of(node).fields["activation_bits"]


def _rows(nodes: list[fx.Node]) -> list[int]:
    return [site_of(node).fields.int("features") for node in nodes]


def _fuse_gate(lowered: Lowered, product: fx.Node, pair: list[fx.Node]) -> None:
    site = site_of(product)
    parameters, old = merged_parameters(lowered, pair, fused_path([site_of(node).path for node in pair]))
    fields = {**site_of(pair[0]).fields.values, "parts": _rows(pair), "kind": site.fields["kind"]}
    inputs = {"x": operand(pair[0], "x")}
    fused = insert_before(
        product, op=TERNARY_PROJECTION, path=site.path, fields=fields, inputs=inputs, parameters=parameters
    )
    product.replace_all_uses_with(fused["out"])
    for node in (product, *pair):
        lowered.graph.erase_node(node)
    erase_placeholders(lowered, old)
