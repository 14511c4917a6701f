"""Checks the written form of a spec: the schema of the file, then the schema of each node's op.

jsonschema finds the mistakes; this file turns each into one diagnostic that points at the key or value and names the nearest
allowed one. What an expression evaluates to is checked later, where it is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from ..specs.diagnostics import Diagnostic, did_you_mean
from ..specs.source import Span, YamlList, YamlMap, YamlNode, plain
from .ops import OP_INDEX, OPS
from .schema import BLOCK_NODE_SCHEMA, node_schema, structure_schema

LANGUAGE_VERSION = 1
PUBLIC_OPS = tuple(op.name for op in OPS if not op.is_internal)
_TYPE_NAMES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a map",
    "null": "null",
}


def check_structure(root: YamlMap) -> list[Diagnostic]:
    """Every mistake in the written form, in source order."""
    found = _check_version(root)
    found += _apply(_structure_validator(), root, "the spec")
    for nodes in _node_maps(root):
        for name, entry in nodes.entries.items():
            if isinstance(entry.value, YamlMap):
                found += _check_node(name, entry.key_span, entry.value)
    return sorted(found, key=lambda d: (d.span.line, d.span.column) if d.span else (0, 0))


def _check_version(root: YamlMap) -> list[Diagnostic]:
    entry = root.entries.get("llmc")
    if entry is None or plain(entry.value) == LANGUAGE_VERSION:
        return []
    message = f"this file is in version {plain(entry.value)!r} of the language; this llmc reads version {LANGUAGE_VERSION}"
    return [Diagnostic(code="E0206", message=message, span=entry.value.span, help=f"write llmc: {LANGUAGE_VERSION}")]


def _node_maps(root: YamlMap) -> Iterator[YamlMap]:
    """The `nodes:` of the graph and of every block."""
    blocks = root.get("blocks")
    holders = [entry.value for entry in blocks.entries.values()] if isinstance(blocks, YamlMap) else []
    for holder in (*holders, root.get("graph")):
        nodes = holder.get("nodes") if isinstance(holder, YamlMap) else None
        if isinstance(nodes, YamlMap):
            yield nodes


def _check_node(name: str, key_span: Span, node: YamlMap) -> list[Diagnostic]:
    op, block = node.get("op"), node.get("block")
    if op is not None and block is not None:
        span = node.entries["block"].key_span
        return [Diagnostic(code="E0208", message=f"{name} has both op: and block:", span=span, help="keep one of them")]
    if block is not None:
        return _apply(_block_node_validator(), node, f"the use of a block {name!r}")
    if op is None:
        return [
            Diagnostic(
                code="E0202",
                message=f"{name} says neither op: nor block:",
                span=key_span,
                help="begin the node with op: NAME or block: NAME",
            )
        ]
    named = plain(op)
    if not isinstance(named, str) or named not in PUBLIC_OPS:
        return [
            Diagnostic(
                code="E0306",
                message=f"there is no op {named!r}",
                span=op.span,
                help=did_you_mean(str(named), PUBLIC_OPS) or "`llmc schema` lists the ops",
            )
        ]
    return _apply(_node_validator(named), node, f"op {named}")


@lru_cache(maxsize=1)
def _structure_validator() -> Draft202012Validator:
    return Draft202012Validator(structure_schema())


@lru_cache(maxsize=1)
def _block_node_validator() -> Draft202012Validator:
    return Draft202012Validator(BLOCK_NODE_SCHEMA)


@lru_cache(maxsize=256)
def _node_validator(op: str) -> Draft202012Validator:
    return Draft202012Validator(node_schema(OP_INDEX[op]))


def _apply(validator: Draft202012Validator, node: YamlNode, what: str) -> list[Diagnostic]:
    errors = cast("Iterator[ValidationError]", validator.iter_errors(cast("Any", plain(node))))  # pyright: ignore[reportUnknownMemberType]
    return [d for error in errors for d in _translate(error, node, what)]


def _translate(error: ValidationError, root: YamlNode, what: str) -> list[Diagnostic]:
    path = [part for part in error.absolute_path]
    node, key_span = _locate(root, path)
    where = str(path[-1]) if path else what
    schema = cast("dict[str, Any]", error.schema)
    match error.validator:
        case "additionalProperties" if isinstance(node, YamlMap):
            allowed = [*schema.get("properties", {})]
            holder = where if path else what
            return [
                Diagnostic(
                    code="E0201",
                    message=f"{holder} has no key {key!r}",
                    span=entry.key_span,
                    help=did_you_mean(key, allowed) or "notes go under keys that begin with x-",
                )
                for key, entry in node.entries.items()
                if key not in allowed and not key.startswith("x-")
            ]
        case "required":
            missing = [key for key in cast("list[str]", error.validator_value) if f"{key!r} is a required" in error.message]
            return [
                Diagnostic(code="E0202", message=f"{where} needs the key {key!r}", span=key_span or node.span, help=None)
                for key in missing
            ]
        case "type":
            allowed = cast("list[str] | str", error.validator_value)
            names = [_TYPE_NAMES[t] for t in ([allowed] if isinstance(allowed, str) else allowed)]
            return [
                Diagnostic(
                    code="E0203",
                    message=f"{where} must be {' or '.join(names)}, not {_kind_of(node)}",
                    span=node.span,
                )
            ]
        case "enum" | "anyOf":
            choices = [str(choice) for choice in _choices(error)]
            return [
                Diagnostic(
                    code="E0204",
                    message=f"{where} cannot be {plain(node)!r}",
                    span=node.span,
                    help=did_you_mean(str(plain(node)), choices) or ("one of: " + ", ".join(choices) if choices else None),
                )
            ]
        case "minimum" | "maxLength" | "minLength":
            bound = {"minimum": "at least", "maxLength": "at most", "minLength": "at least"}[str(error.validator)]
            unit = "" if error.validator == "minimum" else " characters"
            return [
                Diagnostic(
                    code="E0205", message=f"{where} must be {bound} {error.validator_value}{unit}", span=node.span
                )
            ]
        case _:
            return [Diagnostic(code="E0203", message=f"{where} is malformed", span=node.span)]


def _choices(error: ValidationError) -> list[object]:
    if error.validator == "enum":
        return cast("list[object]", error.validator_value)
    branches = cast("list[dict[str, list[object]]]", error.validator_value)
    return [choice for branch in branches for choice in branch.get("enum", []) if choice is not None]


def _kind_of(node: YamlNode) -> str:
    value = plain(node)
    if isinstance(value, bool):
        return "true or false"
    names = {int: "a whole number", float: "a number", str: "text", list: "a list", dict: "a map", type(None): "null"}
    shown = f" {value!r}" if isinstance(value, (int, float, str)) and len(repr(value)) <= 40 else ""
    return names[type(value)] + shown


def _locate(root: YamlNode, path: list[str | int]) -> tuple[YamlNode, Span | None]:
    """The YAML at a jsonschema path, and the span of its key."""
    node, key_span = root, None
    for part in path:
        if isinstance(node, YamlMap) and isinstance(part, str):
            entry = node.entries[part]
            node, key_span = entry.value, entry.key_span
        elif isinstance(node, YamlList) and isinstance(part, int):
            node, key_span = node.items[part], None
    return node, key_span
