"""`overrides:` of a block use: fields that are another value in some layers, on their way from the use to the node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ..specs.diagnostics import Diagnostic, did_you_mean, fail, quoted
from ..specs.source import Span, YamlEntry, YamlList, YamlMap, YamlNode
from .fields import Environment, evaluate_node, show_value
from .ops.declaration import Field
from .spec import NodeSpec, Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One `set:` entry. `path` is what is left of it inside the present block; its last part is the field."""

    path: str
    value: YamlNode
    span: Span
    environment: Environment
    """Of the use that wrote it: its params, and `layer` of its repeat."""


def active_overrides(node: NodeSpec, environment: Environment, held: set[Span]) -> Iterator[Override]:
    """Those of a use whose `at:` holds in this layer. Adds them to `held`."""
    for item in _items(node):
        at, values = item.entries["at"].value, item.get("set")
        holds = evaluate_node(at, environment, is_text=False)
        if not isinstance(holds, bool):
            remedy = "write a comparison, e.g. layer % 4 == 3"
            raise fail("E0207", f"at must be true or false, not {show_value(holds)}", at.span, help=remedy)
        for key, entry in values.entries.items() if holds and isinstance(values, YamlMap) else ():
            held.add(entry.key_span)
            yield Override(path=key, value=entry.value, span=entry.key_span, environment=environment)


def passed_on(overrides: tuple[Override, ...], node: str) -> Iterator[Override]:
    """Those that lead into the block used at `node`, without that first part of their path."""
    for override in overrides:
        if override.path.startswith(f"{node}."):
            yield replace(override, path=override.path.removeprefix(f"{node}."))


def overridden(
    node: NodeSpec, overrides: tuple[Override, ...], used: set[Span]
) -> tuple[YamlMap, dict[str, Environment]]:
    """What is written at an op node once its overrides have replaced fields, and the environment of each that they did.

    Adds the overrides that it took to `used`. Raises LlmcError E0201 where one names no field of the op.
    """
    environments: dict[str, Environment] = {}
    if not overrides:
        return node.source, environments
    entries = dict(node.source.entries)
    known: Mapping[str, Field] = node.op.field_index if node.op is not None else {}
    for override in overrides:
        owner, _, field_name = override.path.rpartition(".")
        if owner != node.name:
            continue
        used.add(override.span)
        if field_name not in known:
            remedy = did_you_mean(field_name, known) or "only fields can be overridden"
            raise fail("E0201", f"{node.name} has no field {quoted(field_name)}", override.span, help=remedy)
        entries[field_name] = YamlEntry(key=field_name, key_span=override.span, value=override.value)
        environments[field_name] = override.environment
    return replace(node.source, entries=entries), environments


def unreached_overrides(spec: Spec, used: set[Span], held: set[Span], visited: set[Span]) -> Iterator[Diagnostic]:
    """The overrides of every use that was visited, but that came to no node in any layer.

    Where params were set from outside, there may be fewer layers than the spec says, so that `at:` never holds.
    """
    is_as_written = all(param.origin == "spec" for param in spec.params.values())
    for block in (*spec.blocks.values(), spec.graph):
        for node in block.nodes.values():
            if node.span not in visited:
                continue
            for item in _items(node):
                values = item.get("set")
                for entry in values.entries.values() if isinstance(values, YamlMap) else ():
                    if entry.key_span in used or not (is_as_written or entry.key_span in held):
                        continue
                    if entry.key_span in held:
                        message = f"the override {quoted(entry.key)} reaches no node in any layer"
                        remedy = "write the node's path inside the block and the field, e.g. self_attn.attend.window"
                    else:
                        message = f"the override {quoted(entry.key)} is for no layer: at: never holds"
                        remedy = "layers count from 0 to num_layers - 1"
                    yield Diagnostic(code="E0508", message=message, span=entry.key_span, help=remedy)


def _items(node: NodeSpec) -> Iterator[YamlMap]:
    listed = node.get("overrides")
    for item in listed.items if isinstance(listed, YamlList) else ():
        if isinstance(item, YamlMap):
            yield item
