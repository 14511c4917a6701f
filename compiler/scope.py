"""One block's nodes as a graph: their order, cycles, and what nobody reads."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from ..specs.diagnostics import Diagnostic, Note, gathered, quoted
from ..specs.expressions import parse_template
from ..specs.source import plain
from .ops.declaration import Value
from .reads import texts_in
from .spec import BlockSpec, NodeSpec, Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """A block with its nodes in topological order (ties in the order they are written)."""

    block: BlockSpec
    order: tuple[str, ...]
    unread: tuple[Diagnostic, ...]
    """E0503 and E0504: nodes and inputs that nothing reads. They may follow from other mistakes in the block."""


def analyse(block: BlockSpec, environment: Mapping[str, Value]) -> Scope:
    """Order the block's nodes by what they read; `environment` holds the params, whose texts references may name.

    Raises LlmcError with every E0501, a cycle. What is not there (E0303) is told by who reads it.
    """
    readers: dict[str, set[str]] = {name: set() for name in block.nodes}
    read: set[str] = set()
    reads = [(name, reference) for name, node in block.nodes.items() for reference in _read_by(node)]
    for name, reference in (*reads, *((None, output) for output in block.outputs.values())):
        for target in _possible_targets(reference, block, environment):
            read.add(target)
            if target in block.nodes and name is not None:
                readers[target].add(name)
    order = _order(readers)
    if len(order) < len(readers):
        raise gathered(_cycles(readers, block))
    unread = [_dead(node) for name, node in block.nodes.items() if name not in read]
    unread += [
        Diagnostic(
            code="E0504",
            message=f"nothing reads the input {port.text!r} of {block.name}",
            span=port.span,
            help="remove it, or read it in a node",
        )
        for port in block.inputs
        if port.text not in read
    ]
    return Scope(block=block, order=order, unread=tuple(unread))


def _order(readers: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Every node after those that it reads, else as written; those in a circle, and after one, are left out."""
    names = list(readers)
    position = {name: index for index, name in enumerate(names)}
    missing = dict.fromkeys(names, 0)
    for targets in readers.values():
        for target in targets:
            missing[target] += 1
    ready = [position[name] for name in names if not missing[name]]
    order: list[str] = []
    while ready:
        name = names[heapq.heappop(ready)]
        order.append(name)
        for target in readers[name]:
            missing[target] -= 1
            if not missing[target]:
                heapq.heappush(ready, position[target])
    return tuple(order)


def base_name(reference: str) -> str:
    """The node of `node:port`."""
    return reference.split(":", 1)[0]


def _read_by(node: NodeSpec) -> Iterator[Text]:
    for group in node.inputs.values():
        yield from group
    yield from node.positional
    if node.orelse is not None:
        yield node.orelse


def _possible_targets(reference: Text, block: BlockSpec, environment: Mapping[str, Value]) -> Iterable[str]:
    """The nodes a reference may name. An expression can name any that it, or a param that it reads, holds as text."""
    template = parse_template(reference.text, reference.span)
    if template.is_plain:
        return (base_name(reference.text),)
    texts = set[str]().union(*(texts_in(environment.get(name)) for name in template.names))
    for value in (block.params[name] for name in template.names if name in block.params):
        texts |= {str(plain(value))} | texts_in(plain(value))
    named = {base_name(text) for text in texts}
    names = {*block.nodes, *(port.text for port in block.inputs)}
    return sorted(
        name
        for name in names
        if name in named or any(f"'{name}" in text or f'"{name}' in text for text in (reference.text, *texts))
    )


def _cycles(readers: Mapping[str, set[str]], block: BlockSpec) -> list[Diagnostic]:
    """One mistake for each knot of nodes that need each other."""
    import networkx as nx  # it takes longer to import than a spec to compile, and mistakes are rare

    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(readers)
    graph.add_edges_from((name, target) for name, targets in readers.items() for target in sorted(targets))
    found: list[Diagnostic] = []
    order = {name: index for index, name in enumerate(block.nodes)}
    for knot in nx.strongly_connected_components(graph):
        start = min(knot, key=order.__getitem__)
        if len(knot) == 1 and not graph.has_edge(start, start):
            continue
        edges = cast("list[tuple[str, str]]", nx.find_cycle(graph.subgraph(knot), start))  # pyright: ignore[reportUnknownMemberType]
        names = [edge[0] for edge in edges]
        notes = tuple(Note(text=f"{quoted(name)} is in the circle", span=block.nodes[name].span) for name in names[1:4])
        message = "these nodes need each other: " + " -> ".join([*names, names[0]])
        found.append(
            Diagnostic(
                code="E0501",
                message=message if len(names) > 1 else f"{quoted(names[0])} reads itself",
                span=block.nodes[names[0]].span,
                notes=notes,
                help="state between tokens is declared by ops; inside one step a graph has no loop",
            )
        )
    return found


def _dead(node: NodeSpec) -> Diagnostic:
    return Diagnostic(
        code="E0503",
        message=f"nothing reads {quoted(node.name)}",
        span=node.span,
        help="remove it, or name it in another node's in: or in out:",
    )
