"""One block's nodes as a graph: order, cycles, dangling references and nodes that nobody reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import networkx as nx

from ..specs.diagnostics import Diagnostic, Note, did_you_mean, gathered, quoted
from ..specs.expressions import parse_template
from ..specs.source import plain
from .ir import AMBIENT
from .names import AMBIENT_NAMES
from .ops.declaration import Value
from .reads import texts_in
from .spec import BlockSpec, NodeSpec, Text

RESERVED_AMBIENT = AMBIENT_NAMES - AMBIENT.keys()
"""Names that are kept for tensors which no graph can read yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """A block with its nodes in topological order (ties in the order they are written)."""

    block: BlockSpec
    order: tuple[str, ...]


def analyse(block: BlockSpec, environment: Mapping[str, Value]) -> Scope:
    """Order the block's nodes by what they read; `environment` holds the params, whose texts references may name.

    Raises LlmcError with every E0303 (a name that is not there), E0501 (a cycle) and E0503 (a node that nobody reads).
    """
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(block.nodes)
    visible = {*block.nodes, *(port.text for port in block.inputs), *AMBIENT}
    found: list[Diagnostic] = []
    read: set[str] = set()
    reads = [(name, reference) for name, node in block.nodes.items() for reference in _read_by(node)]
    for name, reference in (*reads, *((None, output) for output in block.outputs.values())):
        for target in _possible_targets(reference, block, environment):
            read.add(target)
            if target not in visible:
                found.append(_unknown(reference, target, visible - {name}))
                read.update(get_close_matches(target, visible, n=1))  # what was meant is not dead
            elif target in block.nodes and name is not None:
                graph.add_edge(target, name)
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
        raise gathered(found)
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


def _unknown(reference: Text, target: str, visible: set[str]) -> Diagnostic:
    if target in RESERVED_AMBIENT:
        remedy = "a graph cannot read it: padding and blocks are known by position"
    else:
        remedy = did_you_mean(target, visible - AMBIENT.keys()) or "a block sees its inputs and its own nodes"
    return Diagnostic(code="E0303", message=f"there is no {quoted(target)} here", span=reference.span, help=remedy)


def _cycles(graph: nx.DiGraph[str], block: BlockSpec) -> list[Diagnostic]:
    """One mistake for each knot of nodes that need each other."""
    found: list[Diagnostic] = []
    order = {name: index for index, name in enumerate(block.nodes)}
    for knot in nx.strongly_connected_components(graph):
        start = min(knot, key=order.__getitem__)
        if len(knot) == 1 and not graph.has_edge(start, start):
            continue
        names = [edge[0] for edge in nx.find_cycle(graph.subgraph(knot), start)]
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
