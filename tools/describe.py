"""A spec as data for every form of `llmc show`: its parts in order, with their nodes, types, sizes and YAML lines."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from ..compiler.axes import STREAM, node_axis
from ..compiler.fields import show_value
from ..compiler.ir import Model, Node, Ref, TypedDefinition
from ..compiler.ops.declaration import Value
from ..compiler.plan import flops, input_types, parameters, state_bytes
from ..compiler.weight_map import weight_map

if TYPE_CHECKING:
    from ..compiler.spec import Spec

ITEMSIZE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """One node of a definition. FLOPs are of one decoded token at a full context; bytes are of one row in float32."""

    path: str
    op: str
    inputs: tuple[str, ...]
    fields: Mapping[str, str]
    type: str
    parameters: int
    flops: float
    state: str
    state_bytes: int
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One definition and where its instances are."""

    name: str
    instances: tuple[str, ...]
    nodes: tuple[NodeRow, ...]
    outputs: Mapping[str, str]

    @property
    def label(self) -> str:
        """`model.layers.{0-31}`."""
        return instances_label(self.instances)


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A whole spec. Tied and shared tensors count once in `parameters`."""

    name: str
    summary: str
    params: Mapping[str, Value]
    parts: tuple[Part, ...]
    parameters: int
    flops: float
    state_bytes: int
    context: int
    inputs: Mapping[str, str] = field(default_factory=dict[str, str])
    outputs: Mapping[str, str] = field(default_factory=dict[str, str])


def describe(spec: Spec, model: Model) -> Description:
    """Ask the ops for the sizes of every node, once per definition."""
    limit = spec.environment.get("max_seq_len")
    context = limit if isinstance(limit, int) else 2048
    sizes = {"B": 1, "T": 1, "S": context}
    for port in model.inputs:
        sizes |= {dim: context for dim in port.type.shape if isinstance(dim, str) and dim not in sizes}
    weights = weight_map(spec, model)
    instances: dict[str, list[str]] = {}
    for call in model.calls:
        instances.setdefault(call.definition, []).append(call.binding.prefix)
    parts = tuple(
        Part(
            name=name,
            instances=tuple(prefixes),
            nodes=tuple(
                _row(model.definitions[name], node, sizes, context) for node in model.definitions[name].definition.nodes
            ),
            outputs={port: str(ref) for port, ref in model.definitions[name].definition.outputs.items()},
        )
        for name, prefixes in instances.items()
    )
    states = {part.name: sum(node.state_bytes for node in part.nodes) * len(part.instances) for part in parts}
    return Description(
        name=spec.name,
        summary=spec.summary,
        params=spec.environment,
        parts=parts,
        parameters=sum(prod(p.shape) for path, p in parameters(model).items() if path not in weights.ties),
        flops=flops(model, sizes, is_decode=True),
        state_bytes=sum(states.values()),
        context=context,
        inputs={port.name: str(port.type) for port in model.inputs},
        outputs={name: str(model.types[value]) for name, value in model.outputs.items()},
    )


def _row(typed: TypedDefinition, node: Node, sizes: Mapping[str, int], context: int) -> NodeRow:
    states, known = typed.states[node.path], input_types(typed, node.path)
    written = {
        name: value
        for name, value in node.fields.values.items()
        if name in node.op.field_index and value != node.op.field_index[name].default
    }
    inputs: list[str] = []
    for port, value in node.inputs.items():
        if port not in node.op.ambient:
            inputs += [_short(ref) for ref in (value if isinstance(value, tuple) else (value,))]
    return NodeRow(
        path=node.path,
        op=node.op.name,
        inputs=tuple(inputs),
        fields={name: show_value(value) for name, value in written.items()},
        type=", ".join(str(typed.types[Ref(node.path, port)]) for port in node.op.output_names(node.fields)),
        parameters=sum(prod(spec.shape) for spec in typed.parameters[node.path]),
        flops=node.op.flops(node.fields, known, sizes) if node_axis(node.op, known) == STREAM else 0.0,
        state=", ".join(state.kind for state in states),
        state_bytes=sum(state_bytes(state, 1, context, ITEMSIZE) for state in states),
        place=node.span.at_line,
    )


def _short(ref: Ref) -> str:
    return str(ref).removesuffix(":out")


def instances_label(prefixes: Sequence[str]) -> str:
    """One text for many paths: `model.layers.{0-3,8}` where they differ in one number."""
    if len(prefixes) == 1:
        return prefixes[0] or "(top level)"
    for match in reversed(list(re.finditer(r"\d+", prefixes[0]))):
        head, tail = prefixes[0][: match.start()], prefixes[0][match.end() :]
        middles = [p[len(head) : len(p) - len(tail)] for p in prefixes if p.startswith(head) and p.endswith(tail)]
        if len(middles) == len(prefixes) and all(re.fullmatch(r"\d+", middle) for middle in middles):
            return f"{head}{{{_ranges([int(middle) for middle in middles])}}}{tail}"
    return f"{prefixes[0]} … {prefixes[-1]} ({len(prefixes)})"


def _ranges(numbers: list[int]) -> str:
    """`0-3,8`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
