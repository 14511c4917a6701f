"""The moves that passes are made of: replace an op, merge parameters, add ports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import fx

from .lowered import Lowered, identifier, insert_op, placeholder, set_results, site_of, type_of
from .ops.declaration import Fields, Op, TensorType
from .parameters import Formula


def operand(node: fx.Node, name: str) -> fx.Node:
    """The value that feeds one port or parameter of an op."""
    return cast("fx.Node", node.kwargs[name])


def insert_before(
    anchor: fx.Node,
    *,
    op: Op,
    path: str,
    fields: Mapping[str, object],
    inputs: Mapping[str, fx.Node | Sequence[fx.Node]],
    parameters: Mapping[str, fx.Node] | None = None,
    like: fx.Node | None = None,
) -> dict[str, fx.Node]:
    """A new op in front of `anchor`, with the YAML place of `like` (or of the anchor)."""
    values = {f.name: fields.get(f.name, f.default) for f in op.fields}
    with anchor.graph.inserting_before(anchor):
        return insert_op(
            anchor.graph,
            op=op,
            path=path,
            fields=Fields(values),  # pyright: ignore[reportArgumentType]
            inputs=inputs,
            parameters=parameters or {},
            span=site_of(like or anchor).span,
        )


def parameters_of(node: fx.Node) -> dict[str, fx.Node]:
    """The parameter operands of an op node, by name: those that are neither ports nor fields."""
    op = site_of(node).op
    ports = {*(port.name for port in op.ports), *op.ambient, *op.ambient_of, *op.operands, *op.hints}
    ports |= {"training", "state"}
    return {name: cast("fx.Node", value) for name, value in node.kwargs.items() if name not in ports}


def replace_parameters(lowered: Lowered, old: Sequence[fx.Node], name: str, formula: Formula) -> fx.Node:
    """One new parameter in the place of several that nothing reads any more; returns its placeholder."""
    first = old[0]
    target = identifier(name)
    while target in lowered.placeholders:
        target += "_"
    new = placeholder(lowered.graph, target, TensorType(shape=formula.shape, dtype=type_of(first).dtype), before=first)
    gone = {str(node.target) for node in old}
    parameters: dict[str, Formula] = {}
    for key, value in lowered.parameters.items():
        if key == str(first.target):
            parameters[target] = formula
        if key not in gone:
            parameters[key] = value
    lowered.parameters = parameters
    return new


def erase_placeholders(lowered: Lowered, nodes: Sequence[fx.Node]) -> None:
    """Remove placeholders that nothing reads."""
    for node in nodes:
        lowered.graph.erase_node(node)


def add_input(lowered: Lowered, name: str, found: TensorType) -> fx.Node:
    """One more input port, after the existing ones."""
    existing = lowered.placeholders
    first_other = next((node for key, node in existing.items() if key not in lowered.inputs), None)
    node = placeholder(lowered.graph, name, found, before=first_other)
    lowered.inputs.append(name)
    return node


def add_ambient(lowered: Lowered, name: str, found: TensorType) -> fx.Node:
    """The placeholder of an ambient tensor, made if the definition did not read it so far."""
    existing = lowered.placeholders
    if name in existing:
        return existing[name]
    signature = {*lowered.inputs, *lowered.ambient}
    node = placeholder(
        lowered.graph, name, found, before=next((n for key, n in existing.items() if key not in signature), None)
    )
    lowered.ambient.append(name)
    return node


def add_output(lowered: Lowered, name: str, node: fx.Node) -> None:
    """One more output port, after the existing ones and before the states."""
    results = list(lowered.results)
    results.insert(len(lowered.outputs), node)
    lowered.outputs.append(name)
    set_results(lowered, results)


def first_op(lowered: Lowered) -> fx.Node:
    """The first node that is no placeholder."""
    return next(node for node in lowered.graph.nodes if node.op != "placeholder")
