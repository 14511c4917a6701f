"""The IR before lowering: nodes, block definitions, and the calls that bind them to a place in the model.

The unit is a definition, not an instance: `llama` has three (the embedding, the layer, the head) whatever its depth. A
call binds a definition to a path prefix, which names its parameters and states; the ordered calls are the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from ..specs.source import Span, YamlList, YamlMap
from .axes import ambient_type
from .ops.declaration import Fields, Op, ParameterSpec, StateSpec, TensorType, Value

INPUT, AMBIENT_NODE = "", "@"


@dataclass(frozen=True, slots=True)
class Ref:
    """One value inside a definition: output `port` of `node`. Inputs of the definition are the ports of node `""`,
    ambient tensors those of node `"@"`."""

    node: str
    port: str

    def __str__(self) -> str:
        return self.port if self.node in (INPUT, AMBIENT_NODE) else f"{self.node}:{self.port}"


Inputs: TypeAlias = Mapping[str, "Ref | tuple[Ref, ...]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One op with its fields evaluated. `path` is relative to the instance's prefix and names its parameters."""

    path: str
    op: Op
    fields: Fields
    inputs: Inputs
    span: Span
    source: YamlMap
    trail: tuple[Span, ...] = ()
    """Where the blocks around it are used, outermost first."""

    def place(self, key: str | None) -> Span:
        """The span of what is written for a field or a port (`xs.1`: part 1 of a port), else of the node."""
        if key is None:
            return self.span
        entry = self.source.entries.get(key)
        if entry is not None:
            return entry.value.span
        name, _, part = key.partition(".")
        wired = self.source.get("in")
        if wired is None or self.op.port(name) is None:
            found = self.source.get(name)
        elif isinstance(wired, YamlMap):
            found = wired.get(name)
        elif isinstance(wired, YamlList):
            at = self.op.ports.index(self.op.port(name) or self.op.ports[0]) + int(part or 0)
            found = wired.items[at] if at < len(wired.items) else wired
        else:
            found = wired
        if isinstance(found, YamlList) and part:
            found = found.items[int(part)] if int(part) < len(found.items) else found
        return self.span if found is None else found.span


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A pure function of its inputs, parameters, states and scalars. Nodes are in topological order."""

    name: str
    inputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    outputs: Mapping[str, Ref]
    span: Span
    scalars: tuple[tuple[str, str], ...] = ()
    """(node path, field) pairs that differ between instances and travel as operands."""
    is_repeated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What one instance of a definition is bound to."""

    prefix: str
    scalars: Mapping[tuple[str, str], Value] = field(default_factory=dict[tuple[str, str], Value])
    shared: Mapping[str, str] = field(default_factory=dict[str, str])
    """Node path -> absolute parameter path, for nodes whose parameters belong to a share."""
    caches: Mapping[str, str] = field(default_factory=dict[str, str])
    """Node path -> absolute path of the node whose state it reads."""

    def own(self, path: str) -> str:
        """The path of a state of this instance, which no other one shares."""
        return f"{self.prefix}.{path}" if self.prefix else path

    def absolute(self, path: str) -> str:
        """The checkpoint path of a node of this instance."""
        if path in self.shared:
            return self.shared[path]
        return f"{self.prefix}.{path}" if self.prefix and path else self.prefix or path


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One use of a definition. Inputs and outputs are names of program values; a tuple is a collected output."""

    definition: str
    binding: Binding
    inputs: Mapping[str, str | tuple[str, ...]]
    outputs: Mapping[str, str]
    rate: str = "stream"
    """`once` where all that it reads is given once per request: it runs at prefill only, and its outputs are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphInput:
    """An input of the whole model. `rate` is `stream` (new per token) or `once` (kept for a whole request)."""

    name: str
    type: TensorType
    span: Span
    rate: str = "stream"
    default: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedDefinition:
    """A definition with the types of its inputs and of every node's outputs, and what its nodes own."""

    definition: Definition
    inputs: Mapping[str, TensorType | tuple[TensorType, ...]]
    types: Mapping[Ref, TensorType]
    parameters: Mapping[str, tuple[ParameterSpec, ...]]
    states: Mapping[str, tuple[StateSpec, ...]]
    ambient: Mapping[str, Mapping[str, str]]
    """Node path -> operand -> name of the ambient tensor that it reads, which is one of the node's own token axis."""

    def type_of(self, ref: Ref) -> TensorType:
        """The type of any value that a node of this definition may read."""
        if ref.node == AMBIENT_NODE:
            return ambient_type(ref.port)
        if ref.node == INPUT:
            found = self.inputs[ref.port]
            assert isinstance(found, TensorType)
            return found
        return self.types[ref]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A whole checked model: definitions by name, calls in order, and the model's inputs and outputs as value names."""

    name: str
    inputs: tuple[GraphInput, ...]
    definitions: Mapping[str, TypedDefinition]
    calls: tuple[Call, ...]
    outputs: Mapping[str, str]
    types: Mapping[str, TensorType]
