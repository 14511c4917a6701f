"""A spec with its structure parsed and its params evaluated: what `expand` reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..specs.document import Document
from ..specs.source import Span, YamlMap, YamlNode
from .ir import GraphInput
from .ops.declaration import Op, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Param:
    """One param after evaluation. `origin` says where its value is from: the spec, or an override."""

    name: str
    value: Value
    span: Span
    """Of its value in the spec."""
    key_span: Span
    origin: str = "spec"
    given_by: str = ""
    """What messages call the place that an override is from: `--set` or `params=`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A string of the spec that names a value, with its place."""

    text: str
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """One entry of `nodes:`. Exactly one of `op` and `block` is given; `inputs` maps ports to references."""

    name: str
    span: Span
    source: YamlMap
    op: Op | None
    block: Text | None
    inputs: Mapping[str, tuple[Text, ...]]
    positional: tuple[Text, ...]
    orelse: Text | None

    def get(self, key: str) -> YamlNode | None:
        """What is written at `key`."""
        return self.source.get(key)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSpec:
    """A sub-graph: `graph:` itself, or one entry of `blocks:`."""

    name: str
    span: Span
    inputs: tuple[Text, ...]
    nodes: Mapping[str, NodeSpec]
    outputs: Mapping[str, Text]
    params: Mapping[str, YamlNode]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A checked and resolved spec. The last four sections stay positioned YAML; their readers interpret them."""

    document: Document
    name: str
    summary: str
    params: Mapping[str, Param]
    blocks: Mapping[str, BlockSpec]
    graph: BlockSpec
    inputs: tuple[GraphInput, ...]
    config: YamlMap | None
    weights: YamlMap | None
    tokenizer: YamlMap | None
    generation: YamlMap | None

    @property
    def environment(self) -> dict[str, Value]:
        """Param values by name, as expressions see them."""
        return {name: param.value for name, param in self.params.items()}
