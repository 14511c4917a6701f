"""The IR after lowering: one torch.fx graph per definition, and the calls that run them."""

from __future__ import annotations

import keyword
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from torch import fx

from ..kernels.registry import resolve_reference
from ..specs.source import Span
from .ir import Call, Model
from .ops.declaration import Fields, Op, StateSpec, TensorType, Value
from .parameters import Formula

Operand: TypeAlias = "fx.Node | list[fx.Node] | Value"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What an fx node is in the spec: kept in `node.meta["site"]` and carried through every pass."""

    path: str
    op: Op
    fields: Fields
    types: Mapping[str, TensorType]
    span: Span

    @property
    def type(self) -> TensorType:
        """The type of the first output."""
        return next(iter(self.types.values()))


@dataclass(slots=True, kw_only=True)
class Lowered:
    """One definition as a graph. Placeholders come in the order inputs, ambient, parameters, states, scalars; the
    output is a tuple of `outputs` and then the successor of each state."""

    name: str
    graph: fx.Graph
    span: Span
    inputs: list[str] = field(default_factory=list[str])
    outputs: list[str] = field(default_factory=list[str])
    ambient: list[str] = field(default_factory=list[str])
    parameters: dict[str, Formula] = field(default_factory=dict[str, Formula])
    states: dict[str, tuple[str, StateSpec]] = field(default_factory=dict[str, tuple[str, StateSpec]])
    scalars: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    is_repeated: bool = False

    @property
    def placeholders(self) -> dict[str, fx.Node]:
        return {str(node.target): node for node in self.graph.nodes if node.op == "placeholder"}

    @property
    def output(self) -> fx.Node:
        return next(iter(reversed(self.graph.nodes)))

    @property
    def results(self) -> tuple[fx.Node, ...]:
        """The nodes that the graph gives, outputs first, then states."""
        return cast("tuple[fx.Node, ...]", self.output.args[0])

    def sites(self) -> Iterator[tuple[fx.Node, Site]]:
        """Every op node with its site, in order of execution."""
        for node in list(self.graph.nodes):
            if "site" in node.meta and node.op == "call_function":
                yield node, site_of(node)

    def arguments(self) -> tuple[str, ...]:
        """Placeholder names in order."""
        return (*self.inputs, *self.ambient, *self.parameters, *self.states, *self.scalars)


@dataclass(slots=True, kw_only=True)
class Module:
    """What passes rewrite: all lowered definitions and the calls between them."""

    model: Model
    definitions: dict[str, Lowered]
    calls: list[Call]
    outputs: dict[str, str]
    named: frozenset[str] = frozenset()
    """The ops and paths that `x-kernels` names: a pass that joins such a node with another would take it away."""

    def is_named(self, site: Site) -> bool:
        """Whether `x-kernels` names the node, by its op or by the end of its path."""
        return any(names(key, site) for key in self.named)

    def calls_of(self, definition: str) -> list[Call]:
        return [call for call in self.calls if call.definition == definition]

    @property
    def tail_is_tokenwise(self) -> bool:
        """Whether the last call may run on each row's last token alone."""
        last = self.definitions[self.calls[-1].definition]
        return all(site.op.is_tokenwise for _, site in last.sites()) and not last.is_repeated

    def count_ops(self) -> int:
        """Op nodes in all calls: what a token runs through."""
        sizes = {name: sum(1 for _ in lowered.sites()) for name, lowered in self.definitions.items()}
        return sum(sizes[call.definition] for call in self.calls)


def value_types(module: Module) -> dict[str, TensorType]:
    """The type of every value between calls, the model's inputs among them."""
    found = {port.name: port.type for port in module.model.inputs}
    for call in module.calls:
        lowered = module.definitions[call.definition]
        for port, name in call.outputs.items():
            found[name] = lowered.results[lowered.outputs.index(port)].meta["type"]
    return found


def names(key: str, site: Site) -> bool:
    """Whether a key of `x-kernels` means the node."""
    return key == site.op.name or f".{site.path}".endswith(f".{key}")


def site_of(node: fx.Node) -> Site:
    """The site of an op node."""
    return cast("Site", node.meta["site"])


def is_op(node: object, name: str) -> bool:
    """Whether the node is this op."""
    return (
        isinstance(node, fx.Node)
        and node.op == "call_function"
        and "site" in node.meta
        and site_of(node).op.name == name
    )


def identifier(path: str) -> str:
    """A name for generated source: `self_attn.q_proj` -> `self_attn_q_proj`."""
    name = re.sub(r"\W+", "_", path)
    return f"{name}_" if keyword.iskeyword(name) or not name or name[0].isdigit() else name


def type_of(node: fx.Node) -> TensorType:
    """The type of any value in a lowered graph."""
    return cast("TensorType", node.meta["type"])


def placeholder(graph: fx.Graph, name: str, found: TensorType, before: fx.Node | None = None) -> fx.Node:
    """A new placeholder after the existing ones, or before the given node."""
    anchor = before
    if anchor is None:
        anchor = next((node for node in graph.nodes if node.op != "placeholder"), None)
    if anchor is None:
        node = graph.placeholder(name)
    else:
        with graph.inserting_before(anchor):
            node = graph.placeholder(name)
    node.meta["type"] = found
    return node


def insert_op(
    graph: fx.Graph,
    *,
    op: Op,
    path: str,
    fields: Fields,
    inputs: Mapping[str, fx.Node | Sequence[fx.Node]],
    parameters: Mapping[str, fx.Node],
    span: Span,
    scalars: Mapping[str, fx.Node] | None = None,
    state: fx.Node | None = None,
    training: bool = False,
) -> dict[str, fx.Node]:
    """Append one op as a call of its reference; returns its outputs by port, with a `state` the state's successor as
    well.

    The caller sets the insertion point.
    """
    operands: dict[str, Operand] = {}
    known: dict[str, TensorType] = {}
    for port, value in inputs.items():
        operands[port] = value if isinstance(value, fx.Node) else list(value)
        for index, one in enumerate([value] if isinstance(value, fx.Node) else value):
            if port not in op.ambient:
                known[f"{port}.{index}" if index else port] = type_of(one)
    operands.update(parameters)
    for name in op.operands:
        value = fields.values.get(name)
        if scalars is not None and name in scalars:
            operands[name] = scalars[name]
        elif value != op.field_index[name].default:
            operands[name] = cast("Operand", value)
    if op.reads_training:
        operands["training"] = training
    if state is not None:
        operands["state"] = state
    types = dict(op.infer(fields, known))
    if state is not None:
        types.setdefault("state", TensorType(shape=()))
    node = graph.create_node(
        "call_function",
        resolve_reference(op.reference),
        kwargs=operands,  # pyright: ignore[reportArgumentType]
        name=identifier(path),
    )
    node.meta["site"] = Site(path=path, op=op, fields=fields, types=types, span=span)
    if len(types) == 1:
        node.meta["type"] = next(iter(types.values()))
        return {next(iter(types)): node}
    node.meta["type"] = TensorType(shape=())
    outputs: dict[str, fx.Node] = {}
    for index, (port, found) in enumerate(types.items()):
        item = graph.call_function(operator.getitem, (node, index))
        item.meta["type"] = found
        outputs[port] = item
    return outputs


def set_results(lowered: Lowered, results: Sequence[fx.Node]) -> None:
    """Replace what the graph gives."""
    graph = lowered.graph
    existing = [node for node in graph.nodes if node.op == "output"]
    for node in existing:
        graph.erase_node(node)
    graph.output(tuple(results))
