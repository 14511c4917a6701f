"""One block's nodes as a graph: order, cycles, dangling references and nodes that nobody reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import networkx as nx

from ..specs.diagnostics import Diagnostic, LlmcError, Note, did_you_mean
from ..specs.expressions import parse_template
from ..specs.source import YamlMap
from .names import AMBIENT_NAMES
from .spec import BlockSpec, NodeSpec, Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """A block with its nodes in topological order (ties in the order they are written)."""

    block: BlockSpec
    order: tuple[str, ...]


def analyse(block: BlockSpec) -> Scope:
    """Order the block's nodes by what they read.

    Raises LlmcError with every E0303 (a name that is not there), E0501 (a cycle) and E0503 (a node that nobody reads).
    """
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(block.nodes)
    visible = {*block.nodes, *(port.text for port in block.inputs), *AMBIENT_NAMES}
    found: list[Diagnostic] = []
    read: set[str] = set()
    for name, node in block.nodes.items():
        for reference in _read_by(node):
            for target in _possible_targets(reference, block):
                read.add(target)
                if target not in visible:
                    found.append(_unknown(reference, target, visible - {name}))
                elif target in block.nodes:
                    graph.add_edge(target, name)
    for reference in block.outputs.values():
        for target in _possible_targets(reference, block):
            read.add(target)
            if target not in visible:
                found.append(_unknown(reference, target, visible))
    found += _cycles(graph, block)
    found += [_dead(node) for name, node in block.nodes.items() if name not in read]
    found += [
        Diagnostic(
            code="E0504",
            message=f"nothing reads the input {port.text!r} of {block.name}",
            span=port.span,
            help="remove it, or read it in a node",
        )
        for port in block.inputs
        if port.text not in read
    ]
    if found:
        raise LlmcError(found)
    position = {name: index for index, name in enumerate(block.nodes)}
    return Scope(block=block, order=tuple(nx.lexicographical_topological_sort(graph, key=position.__getitem__)))


def base_name(reference: str) -> str:
    """The node of `node:port`."""
    return reference.split(":", 1)[0]


def _read_by(node: NodeSpec) -> Iterator[Text]:
    for group in node.inputs.values():
        yield from group
    yield from node.positional
    if node.orelse is not None:
        yield node.orelse


def _possible_targets(reference: Text, block: BlockSpec) -> Iterable[str]:
    """The nodes a reference may name. An expression can name any that it quotes."""
    template = parse_template(reference.text, reference.span)
    if template.is_plain:
        return (base_name(reference.text),)
    names = {*block.nodes, *(port.text for port in block.inputs)}
    return [name for name in names if f"'{name}" in reference.text or f'"{name}' in reference.text]


def _unknown(reference: Text, target: str, visible: set[str]) -> Diagnostic:
    return Diagnostic(
        code="E0303",
        message=f"there is no {target[:64]!r} here",
        span=reference.span,
        help=did_you_mean(target, visible - AMBIENT_NAMES) or "a block sees its inputs and its own nodes",
    )


def _cycles(graph: nx.DiGraph[str], block: BlockSpec) -> list[Diagnostic]:
    try:
        edges = nx.find_cycle(graph)
    except nx.NetworkXNoCycle:
        return []
    names = [edge[0] for edge in edges]
    notes = tuple(Note(text=f"{name} reads it", span=block.nodes[name].span) for name in names[1:4])
    return [
        Diagnostic(
            code="E0501",
            message="these nodes need each other: " + " -> ".join([*names, names[0]]),
            span=block.nodes[names[0]].span,
            notes=notes,
            help="state between tokens is declared by ops; inside one step a graph has no loop",
        )
    ]


def _dead(node: NodeSpec) -> Diagnostic:
    return Diagnostic(
        code="E0503",
        message=f"nothing reads {node.name!r}",
        span=node.span,
        help="remove it, or name it in another node's in: or in out:",
    )


