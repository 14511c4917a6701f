"""Makes one matrix of linears that read the same value: q, k and v; gate and up.

rewrite: a = linear(x, Wa); b = linear(x, Wb)  ->  a, b = split(linear(x, concat(Wa, Wb)))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import fx

from ..lowered import Lowered, Module, is_op, site_of
from ..ops.declaration import Op
from ..ops.linear import LINEAR
from ..ops.split import SPLIT
from ..parameters import Concat, Tensor
from ..rewrite import erase_placeholders, insert_before, operand, parameters_of, replace_parameters


def fuse_projections(module: Module) -> int:
    """Returns the number of groups fused."""
    return sum(_fuse_in(lowered) for lowered in module.definitions.values())


def _fuse_in(lowered: Lowered) -> int:
    groups: dict[tuple[fx.Node, bool], list[fx.Node]] = {}
    for node, _ in lowered.sites():
        if is_op(node, "linear") and owns_its_parameters(lowered, node):
            groups.setdefault((operand(node, "x"), "bias" in node.kwargs), []).append(node)
    groups = {key: nodes for key, nodes in groups.items() if len(nodes) > 1}
    for nodes in groups.values():
        merge(lowered, nodes, LINEAR, {})
    return len(groups)


def owns_its_parameters(lowered: Lowered, node: fx.Node) -> bool:
    """Whether no other node reads its parameters, and they are tensors of the model as they are."""
    return all(
        len(parameter.users) == 1 and isinstance(lowered.parameters[str(parameter.target)], Tensor)
        for parameter in parameters_of(node).values()
    )


def merge(lowered: Lowered, nodes: list[fx.Node], op: Op, fields: Mapping[str, object]) -> None:
    """Put one `op` with the fields of the first node and these, and a split behind it, in the place of all nodes."""
    first = nodes[0]
    paths = [site_of(node).path for node in nodes]
    path = fused_path(paths)
    merged, old = merged_parameters(lowered, nodes, path)
    widths = [site_of(node).fields.int("features") for node in nodes]
    fields = {**site_of(first).fields.values, **fields, "features": sum(widths)}
    fused = insert_before(first, op=op, path=path, fields=fields, inputs={"x": operand(first, "x")}, parameters=merged)
    names = _short_names(paths)
    parts = insert_before(
        first,
        op=SPLIT,
        path=f"{path}.split",
        fields={"sizes": dict(zip(names, widths, strict=True))},
        inputs={"x": fused["out"]},
    )
    for node, name in zip(nodes, names, strict=True):
        node.replace_all_uses_with(parts[name])
        lowered.graph.erase_node(node)
    erase_placeholders(lowered, old)


def merged_parameters(
    lowered: Lowered, nodes: list[fx.Node], path: str
) -> tuple[dict[str, fx.Node], tuple[fx.Node, ...]]:
    """The nodes' parameters stacked in order, by name; and the placeholders to erase once the nodes are gone."""
    operands = {name: [parameters_of(node)[name] for node in nodes] for name in parameters_of(nodes[0])}
    merged = {
        name: replace_parameters(
            lowered,
            old,
            f"{path}.{name}",
            Concat(tuple(cast("Tensor", lowered.parameters[str(node.target)]) for node in old)),
        )
        for name, old in operands.items()
    }
    return merged, tuple(node for old in operands.values() for node in old)


def _short_names(paths: list[str]) -> list[str]:
    names = [path.rpartition(".")[2] for path in paths]
    return names if len(set(names)) == len(names) else [path.replace(".", "_") for path in paths]


def fused_path(paths: list[str]) -> str:
    """`a.q_proj, a.k_proj, a.v_proj` -> `a.qkv_proj`; `m.gate_proj, m.up_proj` -> `m.gate_up_proj`."""
    prefix = paths[0].rpartition(".")[0]
    names = _short_names(paths)
    if all(name.endswith("_proj") for name in names):
        stems = [name.removesuffix("_proj") for name in names]
        name = ("" if all(len(stem) == 1 for stem in stems) else "_").join(stems) + "_proj"
    else:
        name = "_".join(names)
    return f"{prefix}.{name}" if prefix else name
