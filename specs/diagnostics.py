"""What a user is told about a wrong input: one record a mistake, with its place and its remedy.

Every layer above raises `LlmcError` with one or more diagnostics; nothing else reaches a user. The long text of each
code is in `codes.py`, the picture with the caret in `render.py`.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from .source import Span

Severity: TypeAlias = Literal["error", "warning"]

MAX_REPORTED = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Another place that the mistake involves, and why."""

    text: str
    span: Span | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One mistake. `code` is a key of `codes.CODES`; `span` is the offending token, None where there is no file."""

    code: str
    message: str
    span: Span | None = None
    notes: tuple[Note, ...] = ()
    help: str | None = None
    severity: Severity = "error"


class LlmcError(Exception):
    """One or more diagnostics: a wrong spec, checkpoint, tokenizer, prompt or environment."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("; ".join(summary(d) for d in self.diagnostics))


def fail(
    code: str, message: str, span: Span | None = None, *, notes: Iterable[Note] = (), help: str | None = None
) -> LlmcError:
    """A `LlmcError` of a single diagnostic, to be raised by the caller."""
    return LlmcError([Diagnostic(code=code, message=message, span=span, notes=tuple(notes), help=help)])


def gathered(diagnostics: Iterable[Diagnostic]) -> LlmcError:
    """All of them as one error, for the caller to raise: in source order, one for each code and place, at most 50."""
    first: dict[tuple[str, Span | str], Diagnostic] = {}
    for diagnostic in diagnostics:
        first.setdefault((diagnostic.code, diagnostic.span or diagnostic.message), diagnostic)
    return LlmcError(sorted(first.values(), key=_place)[:MAX_REPORTED])


def _place(diagnostic: Diagnostic) -> tuple[str, int, int]:
    span = diagnostic.span
    return ("", 0, 0) if span is None else (span.file, span.line, span.column)


def summary(diagnostic: Diagnostic) -> str:
    """One line: `specs/x.yaml:3:7: E0203 message (remedy)`."""
    place = f"{diagnostic.span}: " if diagnostic.span else ""
    remedy = f" ({diagnostic.help})" if diagnostic.help else ""
    return printable(f"{place}{diagnostic.code} {diagnostic.message}{remedy}")


def did_you_mean(name: str, allowed: Iterable[str]) -> str | None:
    """`did you mean "x"?` for the nearest allowed name, or the allowed names where none is near and they are few."""
    candidates = sorted(set(allowed))
    near = difflib.get_close_matches(name[:128], candidates, n=1, cutoff=0.6)
    if near:
        return f'did you mean "{near[0]}"?'
    if 0 < len(candidates) <= 12:
        return "allowed here: " + ", ".join(candidates)
    return None


def printable(text: str) -> str:
    """The text with each control, format and unassigned character escaped: what is safe to send to a terminal."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(printable_character, text))


def printable_character(character: str) -> str:
    """The character, or its escape (`\\x1b`, `\\u202e`) where a terminal would act on it instead of showing it."""
    if unicodedata.category(character) in _UNSHOWN:
        return character.encode("unicode_escape").decode("ascii")
    return character


def quoted(text: str, limit: int = 60) -> str:
    """The text between double quotes, escaped and cut to `limit` characters: how a message names a piece of a spec."""
    return f'"{printable(text[:limit])}{"…" if len(text) > limit else ""}"'


_UNSHOWN = frozenset({"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"})
