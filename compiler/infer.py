"""Types every value: shapes and dtypes flow through the calls, and each op's rule is asked once per definition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from ..specs.diagnostics import Diagnostic, LlmcError, Note, fail
from .bind import Expansion
from .ir import AMBIENT, AMBIENT_NODE, INPUT, Call, Definition, Model, Node, Ref, TypedDefinition
from .ops.declaration import ParameterSpec, ShapeProblem, StateSpec, TensorType
from .spec import Spec

InputTypes: TypeAlias = Mapping[str, "TensorType | tuple[TensorType, ...]"]


def infer(spec: Spec, expansion: Expansion) -> Model:
    """The typed model. Raises LlmcError E0601 for every broken shape rule, at the port or field that breaks it."""
    by_name = {definition.name: definition for definition in expansion.definitions}
    values: dict[str, TensorType] = {port.name: port.type for port in spec.inputs}
    typed: dict[str, TypedDefinition] = {}
    for call in expansion.calls:
        inputs = {port: _input_type(name, values) for port, name in call.inputs.items()}
        definition = typed.get(call.definition)
        if definition is None:
            definition = type_definition(by_name[call.definition], inputs)
            typed[call.definition] = definition
        elif definition.inputs != inputs:
            raise _changed_shape(definition, inputs, call)
        for port, name in call.outputs.items():
            values[name] = definition.type_of(definition.definition.outputs[port])
    return Model(
        name=spec.name,
        inputs=spec.inputs,
        definitions=typed,
        calls=expansion.calls,
        outputs=expansion.outputs,
        types=values,
    )


def _input_type(name: str | tuple[str, ...], values: Mapping[str, TensorType]) -> TensorType | tuple[TensorType, ...]:
    return tuple(values[n] for n in name) if isinstance(name, tuple) else values[name]


def _changed_shape(definition: TypedDefinition, inputs: InputTypes, call: Call) -> LlmcError:
    port = next(port for port, found in inputs.items() if definition.inputs[port] != found)
    return fail(
        "E0602",
        f"{call.binding.prefix or call.definition} gets {port} as {inputs[port]}, but its first instance got "
        f"{definition.inputs[port]}",
        definition.definition.span,
        help="a carried value must leave a layer as it came in",
    )


def type_definition(definition: Definition, inputs: InputTypes) -> TypedDefinition:
    """Ask every node's op, in order. A node below a mistake is passed over, so that one mistake is told once."""
    types: dict[Ref, TensorType] = {}
    parameters: dict[str, tuple[ParameterSpec, ...]] = {}
    states: dict[str, tuple[StateSpec, ...]] = {}
    found: list[Diagnostic] = []
    for node in definition.nodes:
        known = _node_inputs(node, inputs, types)
        if known is None:
            continue
        try:
            outputs = node.op.infer(node.fields, known)
            parameters[node.path] = node.op.parameters(node.fields, known)
            states[node.path] = node.op.states(node.fields, known)
        except ShapeProblem as problem:
            notes = tuple(Note(text="used here", span=span) for span in node.trail[-2:])
            place = node.place(problem.at)
            found.append(
                Diagnostic(
                    code="E0601",
                    message=f"{node.path}: {problem.message}",
                    span=place,
                    notes=notes,
                    help=problem.help,
                )
            )
            continue
        for port, found_type in outputs.items():
            types[Ref(node.path, port)] = found_type
    if found:
        raise LlmcError(found)
    return TypedDefinition(definition=definition, inputs=inputs, types=types, parameters=parameters, states=states)


def _node_inputs(node: Node, inputs: InputTypes, types: Mapping[Ref, TensorType]) -> dict[str, TensorType] | None:
    """Input types by port; the parts of a variadic port are `port`, `port.1`, … None where one is unknown."""
    known: dict[str, TensorType] = {}
    for port, value in node.inputs.items():
        for index, ref in enumerate(value if isinstance(value, tuple) else (value,)):
            key = f"{port}.{index}" if index else port
            if ref.node == AMBIENT_NODE:
                if ref.port in node.op.ambient and port == ref.port:
                    continue
                known[key] = AMBIENT[ref.port]
            elif ref.node == INPUT:
                given = inputs[ref.port]
                for extra, one in enumerate(given if isinstance(given, tuple) else (given,)):
                    known[f"{key}.{extra}" if extra else key] = one
            elif ref in types:
                known[key] = types[ref]
            else:
                return None
    return known
