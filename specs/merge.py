"""How a child spec changes its parent: the merge law of `extends`.

maps             merge deeply; the parent's keys come first, in its order
lists, scalars   replace
null             removes the key, which the parent must have; inside `params` null is a value like any other
a node           whose `op:` or `block:` the child changes is replaced whole
"""

from __future__ import annotations

from typing import TypeAlias

from .diagnostics import Diagnostic, LlmcError, did_you_mean, quoted
from .source import YamlEntry, YamlMap, YamlNode, YamlScalar, plain

_Path: TypeAlias = tuple[str, ...]


def merge_specs(parent: YamlMap, child: YamlMap) -> YamlMap:
    """The parent as the child changes it. Each entry keeps the span of the file that wrote it.

    Raises LlmcError where the child removes what the parent does not have.
    """
    mistakes: list[Diagnostic] = []
    merged = _merge_maps(parent, child, (), mistakes)
    if mistakes:
        raise LlmcError(mistakes)
    return merged


def _merge_maps(parent: YamlMap, child: YamlMap, path: _Path, mistakes: list[Diagnostic]) -> YamlMap:
    entries = dict(parent.entries)
    for key, entry in child.entries.items():
        below = parent.entries.get(key)
        if _is_null(entry.value) and path[:1] != ("params",):
            if below is None:
                mistakes.append(_nothing_to_remove(entry, parent))
            entries.pop(key, None)
        elif below is None:
            entries[key] = entry
        else:
            value = _merge_values(below.value, entry.value, (*path, key), mistakes)
            entries[key] = YamlEntry(key=key, key_span=entry.key_span, value=value)
    return YamlMap(entries=entries, span=child.span)


def _merge_values(parent: YamlNode, child: YamlNode, path: _Path, mistakes: list[Diagnostic]) -> YamlNode:
    if not isinstance(parent, YamlMap) or not isinstance(child, YamlMap):
        return child
    if _is_node(path) and _is_another_kind(parent, child):
        return child
    return _merge_maps(parent, child, path, mistakes)


def _is_node(path: _Path) -> bool:
    """Whether the path is that of a node: `graph.nodes.NAME` or `blocks.BLOCK.nodes.NAME`."""
    match path:
        case ("graph", "nodes", _) | ("blocks", _, "nodes", _):
            return True
        case _:
            return False


def _is_another_kind(parent: YamlMap, child: YamlMap) -> bool:
    """Whether the child says another `op:` or `block:` than the parent."""
    for key in ("op", "block"):
        said = child.get(key)
        if said is None or _is_null(said):
            continue
        inherited = parent.get(key)
        if inherited is None or plain(inherited) != plain(said):
            return True
    return False


def _is_null(node: YamlNode) -> bool:
    return isinstance(node, YamlScalar) and node.value is None


def _nothing_to_remove(entry: YamlEntry, parent: YamlMap) -> Diagnostic:
    remedy = did_you_mean(entry.key, parent.entries) or "leave the line out"
    message = f"null removes {quoted(entry.key)}, but the spec that this one extends has no such key here"
    return Diagnostic(code="E0135", message=message, span=entry.key_span, help=remedy)
