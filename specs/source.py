"""Positions in YAML text, and the positioned tree that every later stage reads.

A spec is never turned into plain dicts: each scalar, list and map keeps the span it was written at, so that any later
mistake (a shape, a weight, a kernel) can point at its line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

Plain: TypeAlias = bool | int | float | str | None
"""What a YAML 1.2 scalar can hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A piece of one line of one file. `line` and `column` count from 1; `end_column` is exclusive."""

    file: str
    line: int
    column: int
    end_column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    @property
    def at_line(self) -> str:
        """`file:line`, the form that graphs, kernels and weight errors print."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class YamlScalar:
    """One scalar. `value` is typed by the YAML 1.2 core schema; `is_quoted` keeps `"1"` apart from `1`."""

    value: Plain
    span: Span
    is_quoted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class YamlList:
    items: tuple[YamlNode, ...]
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class YamlEntry:
    """One `key: value` of a map, with the span of the key."""

    key: str
    key_span: Span
    value: YamlNode


@dataclass(frozen=True, slots=True, kw_only=True)
class YamlMap:
    """A map in source order. Keys are strings and unique."""

    entries: Mapping[str, YamlEntry]
    span: Span

    def get(self, key: str) -> YamlNode | None:
        """The value at `key`, or None where the key is absent."""
        entry = self.entries.get(key)
        return None if entry is None else entry.value


YamlNode: TypeAlias = "YamlScalar | YamlList | YamlMap"


def plain(node: YamlNode) -> object:
    """The node as ordinary dicts, lists and scalars, without positions: what JSON Schema and JSON output take."""
    match node:
        case YamlScalar():
            return node.value
        case YamlList():
            return [plain(item) for item in node.items]
        case YamlMap():
            return {key: plain(entry.value) for key, entry in node.entries.items()}
