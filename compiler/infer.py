"""Types every value: shapes and dtypes flow through the calls, and each op's rule is asked once per definition."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TypeAlias

from ..specs.diagnostics import Diagnostic, Note, gathered, quoted
from ..specs.source import Span
from .axes import STREAM, ambient_operands, ambient_type, node_axis
from .bind import Expansion
from .ir import AMBIENT_NODE, INPUT, Call, Definition, Model, Node, Ref, TypedDefinition
from .ops.declaration import ParameterSpec, ShapeProblem, StateSpec, TensorType
from .spec import Spec

MAX_ELEMENTS = 1 << 63

InputTypes: TypeAlias = Mapping[str, "TensorType | tuple[TensorType, ...]"]


def infer(spec: Spec, expansion: Expansion) -> Model:
    """The typed model.

    Raises LlmcError E0601 for every broken shape rule, at the port or field that breaks it, E0602 where a carried value
    changes its type between layers, and E0604 where two nodes own one parameter path.
    """
    by_name = {definition.name: definition for definition in expansion.definitions}
    values: dict[str, TensorType] = {port.name: port.type for port in spec.inputs}
    typed: dict[str, TypedDefinition] = {}
    found: list[Diagnostic] = []
    changed: set[str] = set()
    used: dict[tuple[str, str], str] = {}
    calls: list[Call] = []
    for each in expansion.calls:
        inputs = _input_types(each, values)
        if inputs is None:
            continue
        call = _of_its_types(each, inputs, typed, used, by_name)
        calls.append(call)
        definition = typed.get(call.definition)
        if definition is None:
            definition = type_definition(by_name[call.definition], inputs, found)
            typed[call.definition] = definition
        elif definition.inputs != inputs and call.definition not in changed:
            changed.add(call.definition)
            found.append(_changed_type(definition, inputs, call, expansion, by_name))
        for port, name in call.outputs.items():
            output = definition.definition.outputs[port]
            if output in definition.types or output.node in (INPUT, AMBIENT_NODE):
                values[name] = definition.type_of(output)
    found += [] if found else _colliding_parameters(calls, typed, by_name)
    if found:
        raise gathered(found)
    return Model(
        name=spec.name,
        inputs=spec.inputs,
        definitions=typed,
        calls=tuple(calls),
        outputs=expansion.outputs,
        types=values,
    )


def _of_its_types(
    call: Call,
    inputs: InputTypes,
    typed: Mapping[str, TypedDefinition],
    used: dict[tuple[str, str], str],
    by_name: dict[str, Definition],
) -> Call:
    """The call itself, or of a copy of its definition where other repeats use that at other types.

    used: by definition and path of the repeat, the name under which it is used there.
    """
    use = (call.definition, call.binding.prefix.rpartition(".")[0])
    if use not in used:
        known = dict.fromkeys(name for (definition, _), name in used.items() if definition == call.definition)
        fitting = next((name for name in known if name in typed and typed[name].inputs == inputs), None)
        fresh = (f"{call.definition}_{number}" for number in range(2, len(by_name) + 3))
        used[use] = fitting or (next(name for name in fresh if name not in by_name) if known else call.definition)
        by_name.setdefault(used[use], replace(by_name[call.definition], name=used[use]))
    return replace(call, definition=used[use])


def _input_types(call: Call, values: Mapping[str, TensorType]) -> dict[str, TensorType | tuple[TensorType, ...]] | None:
    """Types by port; None where a reported mistake left one unknown."""
    types: dict[str, TensorType | tuple[TensorType, ...]] = {}
    for port, name in call.inputs.items():
        if not all(n in values for n in (name if isinstance(name, tuple) else (name,))):
            return None
        types[port] = tuple(values[n] for n in name) if isinstance(name, tuple) else values[name]
    return types


def _changed_type(
    definition: TypedDefinition,
    inputs: InputTypes,
    call: Call,
    expansion: Expansion,
    by_name: Mapping[str, Definition],
) -> Diagnostic:
    """E0602 at the node that gives a layer another type than the first layer got, or at the repeat."""
    port = next(port for port, found in inputs.items() if definition.inputs[port] != found)
    source = call.inputs[port]
    node = next((n for c in expansion.calls for n in _producers(c, source, by_name[c.definition])), None)
    prefix = call.binding.prefix or call.definition
    return Diagnostic(
        code="E0602",
        message=f"{prefix} gets {port} as {_show(inputs[port])}, the first layer got {_show(definition.inputs[port])}",
        span=node.span if node is not None else definition.definition.span,
        notes=(Note(text="repeated here", span=definition.definition.span),),
        help="a carried value must leave a layer as it came in",
    )


def _producers(call: Call, name: str | tuple[str, ...], definition: Definition) -> Iterator[Node]:
    """The node of a call that gives the value `name`."""
    for port, given in call.outputs.items():
        if given == name:
            yield from (node for node in definition.nodes if node.path == definition.outputs[port].node)


def _show(found: TensorType | tuple[TensorType, ...]) -> str:
    return ", ".join(map(str, found)) if isinstance(found, tuple) else str(found)


def _colliding_parameters(
    calls: Sequence[Call], typed: Mapping[str, TypedDefinition], by_name: Mapping[str, Definition]
) -> Iterator[Diagnostic]:
    """Parameter paths that two nodes own without sharing them, or share at different shapes."""
    owners: dict[str, tuple[Call, str, ParameterSpec]] = {}
    for call in calls:
        for path, specs in typed[call.definition].parameters.items():
            for spec in specs:
                absolute = ".".join(part for part in (call.binding.absolute(path), spec.name) if part)
                first_call, first_path, first = owners.setdefault(absolute, (call, path, spec))
                if (first_call, first_path) == (call, path):
                    continue
                span, other = _span(by_name, call, path), _span(by_name, first_call, first_path)
                is_shared = path in call.binding.shared and first_path in first_call.binding.shared
                if is_shared and first.shape == spec.shape:
                    continue
                reason = (
                    f"{absolute} is shared, but it is {list(spec.shape)} here and {list(first.shape)} at its first use"
                    if is_shared
                    else f"two nodes own the parameter {quoted(absolute)}"
                )
                remedy = (
                    "keep it out of the share with own:"
                    if is_shared
                    else "rename one, or share: the block they stand in"
                )
                notes = (Note(text="the other one", span=other),)
                yield Diagnostic(code="E0604", message=reason, span=span, notes=notes, help=remedy)


def _span(by_name: Mapping[str, Definition], call: Call, path: str) -> Span:
    definition = by_name[call.definition]
    return next((node.span for node in definition.nodes if node.path == path), definition.span)


def type_definition(definition: Definition, inputs: InputTypes, found: list[Diagnostic]) -> TypedDefinition:
    """Ask every node's op, in order. A node below a mistake is passed over, so that each mistake is told once."""
    types: dict[Ref, TensorType] = {}
    parameters: dict[str, tuple[ParameterSpec, ...]] = {}
    states: dict[str, tuple[StateSpec, ...]] = {}
    ambient: dict[str, Mapping[str, str]] = {}
    for node in definition.nodes:
        known = _node_inputs(node, inputs, types)
        if known is None:
            continue
        try:
            outputs = node.op.infer(node.fields, known)
            parameters[node.path] = node.op.parameters(node.fields, known)
            states[node.path] = _states(node, known)
            ambient[node.path] = ambient_operands(node.op, known)
            _check_sizes(outputs, parameters[node.path])
        except ShapeProblem as problem:
            found.append(_broken_rule(node, problem, definition, known))
            continue
        for port, found_type in outputs.items():
            types[Ref(node.path, port)] = found_type
    return TypedDefinition(
        definition=definition, inputs=inputs, types=types, parameters=parameters, states=states, ambient=ambient
    )


def _states(node: Node, known: Mapping[str, TensorType]) -> tuple[StateSpec, ...]:
    """What a node keeps between calls; nothing off the stream, where all tokens are there at once."""
    return node.op.states(node.fields, known) if node_axis(node.op, known) == STREAM else ()


def _check_sizes(outputs: Mapping[str, TensorType], parameters: Iterable[ParameterSpec]) -> None:
    """Every axis holds something, and no tensor has 2**63 elements before batch and tokens are known."""
    for what, shape in (
        *((f"the output {port}", found.shape) for port, found in outputs.items()),
        *((f"the parameter {spec.name}", spec.shape) for spec in parameters),
    ):
        sizes = [dim for dim in shape if isinstance(dim, int)]
        if any(size < 1 for size in sizes):
            raise ShapeProblem(f"{what} would be {list(shape)}", help="every axis needs at least one element")
        if prod(sizes) >= MAX_ELEMENTS:
            raise ShapeProblem(
                f"{what} would be {list(shape)}, which is more than 2**63 elements", help="make it smaller"
            )


def _broken_rule(
    node: Node, problem: ShapeProblem, definition: Definition, known: Mapping[str, TensorType]
) -> Diagnostic:
    """E0601 with what reaches the port, and the uses of the blocks around the node."""
    at = problem.at or ""
    port = node.op.port(at.partition(".")[0])
    notes: list[Note] = []
    source = node.inputs.get(at) if port is not None else None
    producer = next((n for n in definition.nodes if isinstance(source, Ref) and n.path == source.node), None)
    if producer is not None:
        notes.append(Note(text=f"{at} comes from {producer.path}, {known[at]}", span=producer.span))
    notes += [Note(text="used here", span=span) for span in node.trail[-2:]]
    field = node.op.field_index.get(at)
    about = (
        f"{port.name}: {port.doc}" if port is not None else f"{field.name}: {field.doc}" if field is not None else None
    )
    return Diagnostic(
        code="E0601",
        message=f"{node.path}: {problem.message}",
        span=node.place(problem.at),
        notes=tuple(notes),
        help=problem.help or about or node.op.summary,
    )


def _node_inputs(node: Node, inputs: InputTypes, types: Mapping[Ref, TensorType]) -> dict[str, TensorType] | None:
    """Input types by port; the parts of a variadic port are `port`, `port.1`, … None where one is unknown."""
    known: dict[str, TensorType] = {}
    for port, value in node.inputs.items():
        for index, ref in enumerate(value if isinstance(value, tuple) else (value,)):
            key = f"{port}.{index}" if index else port
            if ref.node == AMBIENT_NODE:
                if ref.port in node.op.ambient and port == ref.port:
                    continue
                known[key] = ambient_type(ref.port)
            elif ref.node == INPUT:
                given = inputs[ref.port]
                for extra, one in enumerate(given if isinstance(given, tuple) else (given,)):
                    known[f"{key}.{extra}" if extra else key] = one
            elif ref in types:
                known[key] = types[ref]
            else:
                return None
    return known
