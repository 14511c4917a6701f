"""Writes a positioned tree back as YAML 1.2 that reads as equal values: how a build folder holds its resolved spec.

A map or list that fits one line is written in flow style, as specs are by hand; longer ones are blocks. Comments are
not kept.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from .source import Plain, Span, YamlEntry, YamlList, YamlMap, YamlNode, YamlScalar

MAX_WIDTH = 116

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./+*-]*(?: [A-Za-z0-9_./+*()=<>%-]+)*")
_WORDS = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n"))
_OPEN_SECTIONS = frozenset(("params", "blocks", "graph", "config", "weights", "nodes"))
"""Maps that are always blocks, one entry a line, so that two specs can be compared line by line."""


def write_yaml(root: YamlMap) -> str:
    """The text of a map."""
    return "\n".join(_block(root, 0)) + "\n"


def write_plain(values: Mapping[str, object]) -> str:
    """The text of a map of ordinary dicts, lists and scalars."""
    nowhere = Span(file="", line=0, column=0, end_column=0)
    root = to_node(values, nowhere)
    assert isinstance(root, YamlMap)
    return write_yaml(root)


def with_params(root: YamlMap, values: Mapping[str, object]) -> YamlMap:
    """The spec with other values in its `params:`; names that it does not have are left out."""
    params = root.get("params")
    if not values or not isinstance(params, YamlMap):
        return root
    entries = {
        key: YamlEntry(key=key, key_span=entry.key_span, value=to_node(values[key], entry.value.span))
        if key in values
        else entry
        for key, entry in params.entries.items()
    }
    changed = YamlMap(entries=entries, span=params.span)
    section = root.entries["params"]
    replaced = YamlEntry(key="params", key_span=section.key_span, value=changed)
    return YamlMap(entries={**root.entries, "params": replaced}, span=root.span)


def to_node(value: object, span: Span) -> YamlNode:
    """Ordinary dicts, lists and scalars as a tree whose nodes all stand at one place."""
    match value:
        case Mapping():
            entries = {
                key: YamlEntry(key=key, key_span=span, value=to_node(item, span))
                for key, item in cast("Mapping[str, object]", value).items()
            }
            return YamlMap(entries=entries, span=span)
        case list() | tuple():
            return YamlList(items=tuple(to_node(item, span) for item in cast("Sequence[object]", value)), span=span)
        case None | bool() | int() | float() | str():
            return YamlScalar(value=value, span=span)
        case _:
            raise TypeError(f"{type(value).__name__} is no value of a spec")


def _block(node: YamlMap, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for key, entry in node.entries.items():
        head = f"{indent}{_text(key)}:"
        value = entry.value
        is_open = depth < 3 and key in _OPEN_SECTIONS and isinstance(value, YamlMap) and bool(value.entries)
        flow = f"{head} {_flow(value)}"
        if not is_open and (len(flow) <= MAX_WIDTH or isinstance(value, YamlScalar) or not _size(value)):
            yield flow
        elif isinstance(value, YamlMap):
            yield head
            yield from _block(value, depth + 1)
        else:
            assert isinstance(value, YamlList)
            yield head
            for item in value.items:
                yield f"{indent}  - {_flow(item)}"


def _size(node: YamlNode) -> int:
    return 1 if isinstance(node, YamlScalar) else len(node.items if isinstance(node, YamlList) else node.entries)


def _flow(node: YamlNode) -> str:
    match node:
        case YamlScalar():
            return _scalar(node.value, is_quoted=node.is_quoted)
        case YamlList():
            return f"[{', '.join(_flow(item) for item in node.items)}]"
        case YamlMap():
            return "{" + ", ".join(f"{_text(key)}: {_flow(entry.value)}" for key, entry in node.entries.items()) + "}"


def _scalar(value: Plain, *, is_quoted: bool) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float() if math.isnan(value):
            return ".nan"
        case float() if math.isinf(value):
            return ".inf" if value > 0 else "-.inf"
        case float():
            return repr(value)
        case str():
            return _text(value, is_quoted=is_quoted)


def _text(text: str, *, is_quoted: bool = False) -> str:
    """Plain where every YAML reader takes it as this text, else between double quotes."""
    if not is_quoted and _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    escaped = json.dumps(text, ensure_ascii=False)[1:-1]
    return '"' + "".join(map(_escape, escaped)) + '"'


def _escape(character: str) -> str:
    code = ord(character)
    if 0x20 <= code < 0x7F or (character.isprintable() and code not in (0xFEFF, 0xFFFE, 0xFFFF)):
        return character
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
