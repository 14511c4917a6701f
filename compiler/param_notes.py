"""Where the params of a wrong expression are written: notes on a diagnostic that points at the expression alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from ..specs.diagnostics import Diagnostic, LlmcError, Note
from ..specs.expressions import parse_template
from ..specs.source import Span, YamlEntry, YamlList, YamlMap, YamlNode, YamlScalar
from .fields import names_in

MAX_NOTES = 3
_OF_A_VALUE = frozenset(("E0204", "E0205", "E0207", "E0413", "E0414", "E0415", "E0416", "E0418"))
"""Mistakes in what an expression gives, not in how it is written."""


def with_param_notes(found: Diagnostic, root: YamlMap, given: Collection[str]) -> Diagnostic:
    """The diagnostic with a note for each param that the expression at its place reads, but for those `given` from
    outside. Where a param is an expression that lacks its `${…}`, that is the remedy."""
    params = root.get("params")
    if found.code not in _OF_A_VALUE or found.span is None or not isinstance(params, YamlMap):
        return found
    hidden = {*given, *_params_of_blocks(root.get("blocks"))}
    names = [name for name in _names_at(root, found.span) if name in params.entries and name not in hidden]
    entries = [params.entries[name] for name in names[:MAX_NOTES]]
    notes = tuple(Note(text=f"{entry.key} is written here", span=entry.value.span) for entry in entries)
    bare = next((entry for entry in entries if _is_bare_expression(entry, params)), None)
    remedy = (
        found.help if bare is None else f"under params: an expression stands in ${{…}}: {bare.key}: ${{{_text(bare)}}}"
    )
    return replace(found, notes=(*found.notes, *notes), help=remedy)


def _is_bare_expression(entry: YamlEntry, params: YamlMap) -> bool:
    """Whether the text of a param would be an expression of other params, had it stood in `${…}`."""
    text = _text(entry)
    try:
        names = parse_template(f"${{{text}}}", entry.value.span).names if "${" not in text else frozenset[str]()
    except LlmcError:
        return False
    return bool(names) and names <= params.entries.keys()


def _text(entry: YamlEntry) -> str:
    return entry.value.value if isinstance(entry.value, YamlScalar) and isinstance(entry.value.value, str) else ""


def _names_at(root: YamlNode, span: Span) -> list[str]:
    """The names that the scalar around `span` reads."""
    for scalar in _scalars(root):
        at = scalar.span
        if (at.file, at.line) == (span.file, span.line) and at.column <= span.column < at.end_column:
            try:
                return sorted(names_in(scalar, is_text=False))
            except LlmcError:
                return []
    return []


def _params_of_blocks(blocks: YamlNode | None) -> Iterator[str]:
    """The names of local params, which may hide those of the file."""
    for entry in blocks.entries.values() if isinstance(blocks, YamlMap) else ():
        local = entry.value.get("params") if isinstance(entry.value, YamlMap) else None
        if isinstance(local, YamlMap):
            yield from local.entries


def _scalars(node: YamlNode) -> Iterator[YamlScalar]:
    match node:
        case YamlScalar():
            yield node
        case YamlList():
            for item in node.items:
                yield from _scalars(item)
        case YamlMap():
            for entry in node.entries.values():
                yield from _scalars(entry.value)
