"""Groups what was expanded into definitions and calls, and gives every value that crosses a border its name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..specs.diagnostics import fail
from ..specs.source import Span
from .fields import comparable
from .ir import AMBIENT_NODE, INPUT, Binding, Call, Definition, Node, Ref
from .ops.declaration import Value
from .spec import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """Definitions in order of first use, calls in order of execution, and the model's outputs as value names."""

    definitions: tuple[Definition, ...]
    calls: tuple[Call, ...]
    outputs: Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class Repetition:
    """A repeated block at the top level, expanded: one body an instance, and how the instances are wired."""

    path: str
    span: Span
    bodies: list[Body]
    inputs: Mapping[str, Ref | tuple[Ref, ...]]
    carried: tuple[str, ...]
    """Input ports that the outputs `carried_outputs` become in the next instance."""
    carried_outputs: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Body:
    """The content of one block use: nodes with paths relative to `prefix`, and its outputs."""

    block: str = ""
    """Name of the block, which its definition takes."""
    prefix: str = ""
    inputs: tuple[str, ...] = ()
    items: list[Node | Repetition] = field(default_factory=list["Node | Repetition"])
    outputs: dict[str, Ref] = field(default_factory=dict[str, Ref])
    shared: dict[str, str] = field(default_factory=dict[str, str])
    caches: dict[str, str] = field(default_factory=dict[str, str])
    taps: dict[str, Ref] = field(default_factory=dict[str, Ref])
    """Inputs beyond the block's own ports, with the program values that they read."""


class _Binder:
    """Names definitions and values while it walks the items in order."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.by_key: dict[object, str] = {}
        self.numbers: dict[object, int] = {}
        self.node_keys: dict[int, tuple[Node, int]] = {}
        """By the identity of a node: instances that were expanded once have their nodes in common."""
        self.definitions: dict[str, Definition] = {}
        self.instances: dict[str, list[Sequence[Node]]] = {}
        self.calls: list[Call] = []

    def add(self, name: str, body: Body, nodes: Sequence[Node], span: Span, *, is_repeated: bool, rate: str) -> str:
        """The definition of this body: an existing one of equal structure, or a new one."""
        key = (rate, body.inputs, tuple(self.key(node) for node in nodes), tuple(body.outputs.items()))
        found = self.by_key.get(key)
        if found is None:
            found = _fresh(name, self.definitions)
            self.by_key[key] = found
            self.instances[found] = []
            self.definitions[found] = Definition(
                name=found,
                inputs=body.inputs,
                nodes=tuple(nodes),
                outputs=dict(body.outputs),
                span=span,
                scalars=tuple((n.path, f.name) for n in nodes for f in n.op.fields if f.is_scalar),
                is_repeated=is_repeated,
            )
        self.instances[found].append(nodes)
        return found

    def key(self, node: Node) -> int:
        """Equal for nodes that are equal apart from scalars and from where they are written."""
        if id(node) not in self.node_keys:
            number = self.numbers.setdefault(_node_key(node), len(self.numbers))
            self.node_keys[id(node)] = (node, number)
        return self.node_keys[id(node)][1]


def bind(
    spec: Spec,
    items: Sequence[Node | Repetition],
    outputs: Mapping[str, Ref | tuple[Ref, ...]],
    caches: Mapping[str, str],
    shared: Mapping[str, str],
) -> Expansion:
    """Cut the top level into definitions (runs of plain nodes, bodies of repeats) and the calls that use them."""
    for port, value in outputs.items():
        if isinstance(value, tuple):
            raise fail(
                "E0506",
                f"the output {port!r} is one value per layer",
                spec.graph.outputs[port].span,
                help="carry one value, or join them by op: concat",
            )
    finals = {port: value for port, value in outputs.items() if isinstance(value, Ref)}
    binder = _Binder(spec)
    readers = _readers(items, finals.values())
    rates = _rates(spec, items)
    run: list[Node] = []
    run_rate: str | None = None

    def flush(is_last: bool) -> None:
        nonlocal run_rate
        if run:
            name = "entry" if not binder.calls else "exit" if is_last else "between"
            _add_run(binder, name, list(run), readers, caches, shared, run_rate or "stream")
            run.clear()
        run_rate = None

    for item, rate in zip(items, rates, strict=True):
        if isinstance(item, Node):
            if rate is not None and run_rate not in (None, rate):
                flush(is_last=False)
            run_rate = run_rate or rate
            run.append(item)
            continue
        flush(is_last=False)
        _add_repetition(binder, item, rate or "stream")
    flush(is_last=True)
    return Expansion(
        definitions=tuple(_without_constant_scalars(d, binder.instances[d.name]) for d in binder.definitions.values()),
        calls=tuple(binder.calls),
        outputs={port: value_name(ref) for port, ref in finals.items()},
    )


def value_name(ref: Ref) -> str:
    """The name of a program value: a model input's own, else `path:port`."""
    return ref.port if ref.node == INPUT else f"{ref.node}:{ref.port}"


def _value_names(value: Ref | tuple[Ref, ...]) -> str | tuple[str, ...]:
    return tuple(value_name(ref) for ref in value) if isinstance(value, tuple) else value_name(value)


def _refs(inputs: Iterable[Ref | tuple[Ref, ...]]) -> Iterable[Ref]:
    for value in inputs:
        yield from value if isinstance(value, tuple) else (value,)


def _rates(spec: Spec, items: Sequence[Node | Repetition]) -> list[str | None]:
    """For each item `once` or `stream`, by what it reads; None where that is only free parameters, which suit both."""
    inputs = {port.name: port.rate for port in spec.inputs}
    by_node: dict[str, str | None] = {}
    rates: list[str | None] = []
    for item in items:
        own = item.op.ambient if isinstance(item, Node) else ()
        found: set[str | None] = set()
        for ref in _item_refs(item):
            if ref.node == AMBIENT_NODE:
                found |= set() if ref.port in own else {"stream"}
            else:
                found.add(inputs[ref.port] if ref.node == INPUT else by_node.get(ref.node))
        rates.append("stream" if "stream" in found else "once" if "once" in found else None)
        for node in [item.path] if isinstance(item, Node) else [body.prefix for body in item.bodies]:
            by_node[node] = rates[-1]
    return rates


def _item_refs(item: Node | Repetition) -> Iterable[Ref]:
    """All that an item reads from outside of it."""
    yield from _refs(item.inputs.values())
    if isinstance(item, Repetition):
        for body in item.bodies:
            yield from body.taps.values()


def _readers(items: Sequence[Node | Repetition], finals: Iterable[Ref]) -> dict[Ref, set[int]]:
    """Which items read each value; -1 stands for the model's outputs."""
    readers: dict[Ref, set[int]] = {}
    for index, item in enumerate(items):
        for ref in _item_refs(item):
            readers.setdefault(ref, set()).add(id(item) if isinstance(item, Node) else index)
    for ref in finals:
        readers.setdefault(ref, set()).add(-1)
    return readers


def _add_run(
    binder: _Binder,
    name: str,
    nodes: list[Node],
    readers: Mapping[Ref, set[int]],
    caches: Mapping[str, str],
    shared: Mapping[str, str],
    rate: str,
) -> None:
    inside = {node.path for node in nodes}
    members = {id(node) for node in nodes}
    ports: dict[Ref, str] = {}
    renamed: list[Node] = []
    for node in nodes:
        for ref in _refs(node.inputs.values()):
            if ref.node not in inside and ref.node != AMBIENT_NODE and ref not in ports:
                ports[ref] = _fresh(_identifier(value_name(ref)), set(ports.values()))
        wired = {port: _map_refs(value, ports) for port, value in node.inputs.items()}
        renamed.append(_with_inputs(node, wired))
    outputs: dict[str, Ref] = {}
    for node in nodes:
        for port in node.op.output_names(node.fields):
            ref = Ref(node.path, port)
            if readers.get(ref, set()) - members:
                outputs[_fresh(_identifier(value_name(ref)), outputs)] = ref
    body = Body(inputs=tuple(ports.values()), items=list(renamed), outputs=outputs)
    definition = binder.add(name, body, renamed, nodes[0].span, is_repeated=False, rate=rate)
    binder.calls.append(
        Call(
            definition=definition,
            binding=Binding(
                prefix="",
                scalars=_scalars(renamed),
                shared={p: s for p, s in shared.items() if p in inside},
                caches={p: c for p, c in caches.items() if p in inside},
            ),
            inputs={port: value_name(ref) for ref, port in ports.items()},
            outputs={port: value_name(ref) for port, ref in outputs.items()},
            rate=rate,
        )
    )


def _add_repetition(binder: _Binder, item: Repetition, rate: str) -> None:
    carried: dict[str, str] = {}
    pairs = dict(zip(item.carried_outputs, item.carried, strict=True))
    for body in item.bodies:
        nodes = [node for node in body.items if isinstance(node, Node)]
        definition = binder.add(body.block, body, nodes, item.span, is_repeated=True, rate=rate)
        inputs: dict[str, str | tuple[str, ...]] = {}
        for port in body.inputs:
            if port in body.taps:
                inputs[port] = value_name(body.taps[port])
            else:
                inputs[port] = carried[port] if port in carried else _value_names(item.inputs[port])
        outputs = {port: f"{body.prefix}:{port}" for port in body.outputs}
        binder.calls.append(
            Call(
                definition=definition,
                binding=Binding(prefix=body.prefix, scalars=_scalars(nodes), shared=body.shared, caches=body.caches),
                inputs=inputs,
                outputs=outputs,
                rate=rate,
            )
        )
        carried = {port: outputs[out] for out, port in pairs.items()}


def _map_refs(value: Ref | tuple[Ref, ...], ports: Mapping[Ref, str]) -> Ref | tuple[Ref, ...]:
    if isinstance(value, tuple):
        return tuple(Ref(INPUT, ports[ref]) if ref in ports else ref for ref in value)
    return Ref(INPUT, ports[value]) if value in ports else value


def _with_inputs(node: Node, inputs: Mapping[str, Ref | tuple[Ref, ...]]) -> Node:
    return Node(
        path=node.path,
        op=node.op,
        fields=node.fields,
        inputs=inputs,
        span=node.span,
        source=node.source,
        trail=node.trail,
    )


def _scalars(nodes: Iterable[Node]) -> dict[tuple[str, str], Value]:
    return {(n.path, f.name): n.fields[f.name] for n in nodes for f in n.op.fields if f.is_scalar}


def _without_constant_scalars(definition: Definition, instances: Sequence[Sequence[Node]]) -> Definition:
    """Keep as operands only the scalars that do differ between instances."""
    values: dict[tuple[str, str], set[object]] = {}
    for nodes in instances:
        for key, value in _scalars(nodes).items():
            values.setdefault(key, set()).add(comparable(value))
    differing = tuple(key for key in definition.scalars if len(values[key]) > 1)
    return Definition(
        name=definition.name,
        inputs=definition.inputs,
        nodes=definition.nodes,
        outputs=definition.outputs,
        span=definition.span,
        scalars=differing,
        is_repeated=definition.is_repeated,
    )


def _node_key(node: Node) -> object:
    fields = tuple((f.name, comparable(node.fields.values.get(f.name))) for f in node.op.fields if not f.is_scalar)
    return (node.path, node.op.name, fields, tuple(node.inputs.items()))


def _identifier(name: str) -> str:
    """A port name for a value: `model.layers.31:out` -> `model_layers`."""
    return re.sub(r"\W+", "_", re.sub(r"\.\d+:out$", "", name).removesuffix(":out"))


def _fresh(name: str, taken: Iterable[str]) -> str:
    names = set(taken)
    if name not in names:
        return name
    return next(f"{name}_{i}" for i in range(1, len(names) + 2) if f"{name}_{i}" not in names)
