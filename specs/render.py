"""Diagnostics as a reader sees them: rustc's picture with the source line and a caret, or JSON for machines.

    error[E0412]: the name "hiden_size" is not known here
      --> specs/mine.yaml:12:34
       |
    12 |   q_proj: {op: linear, features: hiden_size}
       |                                  ^^^^^^^^^^
       = help: did you mean "hidden_size"?

Whatever a spec wrote is escaped before it reaches a terminal.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from .diagnostics import Diagnostic, LlmcError, Note, printable, printable_character
from .source import Span
from .text_files import read_text_file

MAX_LINE_WIDTH = 120

_TAB = "    "
_RED, _YELLOW, _BLUE, _BOLD, _OFF = "\x1b[1;31m", "\x1b[1;33m", "\x1b[1;34m", "\x1b[1m", "\x1b[0m"


class JsonNote(TypedDict):
    text: str
    file: str | None
    line: int | None
    column: int | None
    end_column: int | None


class JsonDiagnostic(TypedDict):
    code: str
    severity: str
    message: str
    file: str | None
    line: int | None
    column: int | None
    end_column: int | None
    notes: list[JsonNote]
    help: str | None


def render(diagnostics: Sequence[Diagnostic], sources: Mapping[str, str] | None = None, *, color: bool = False) -> str:
    """The text of all diagnostics, with a last line that counts them.

    `sources` gives the text of files by the name that spans use; other files are read from disk, and where that fails
    the picture is left out.
    """
    painter = _Painter(sources or {}, color)
    pictures = [painter.diagnostic(diagnostic) for diagnostic in diagnostics]
    return "\n\n".join([*pictures, _count(diagnostics)]) + "\n"


def to_json(diagnostics: Sequence[Diagnostic]) -> list[JsonDiagnostic]:
    """One map a diagnostic, always with the same keys. Lines and columns count from 1; `end_column` is exclusive."""
    found: list[JsonDiagnostic] = []
    for diagnostic in diagnostics:
        span = diagnostic.span
        found.append(
            JsonDiagnostic(
                code=diagnostic.code,
                severity=diagnostic.severity,
                message=diagnostic.message,
                file=span.file if span else None,
                line=span.line if span else None,
                column=span.column if span else None,
                end_column=span.end_column if span else None,
                notes=[_json_note(note) for note in diagnostic.notes],
                help=diagnostic.help,
            )
        )
    return found


def _json_note(note: Note) -> JsonNote:
    span = note.span
    return JsonNote(
        text=note.text,
        file=span.file if span else None,
        line=span.line if span else None,
        column=span.column if span else None,
        end_column=span.end_column if span else None,
    )


def _count(diagnostics: Sequence[Diagnostic]) -> str:
    counts: list[str] = []
    for severity in ("error", "warning"):
        number = sum(diagnostic.severity == severity for diagnostic in diagnostics)
        if number:
            counts.append(f"{number} {severity}{'' if number == 1 else 's'}")
    return ", ".join(counts) or "no errors"


class _Painter:
    def __init__(self, sources: Mapping[str, str], color: bool) -> None:
        self.lines = {name: text.splitlines() for name, text in sources.items()}
        self.color = color

    def paint(self, color: str, text: str) -> str:
        return f"{color}{text}{_OFF}" if self.color else text

    def diagnostic(self, diagnostic: Diagnostic) -> str:
        strong = _RED if diagnostic.severity == "error" else _YELLOW
        head = self.paint(strong, f"{diagnostic.severity}[{diagnostic.code}]")
        rows = [head + self.paint(_BOLD, f": {printable(diagnostic.message)}")]
        placed = [span for span in (diagnostic.span, *(note.span for note in diagnostic.notes)) if span]
        gutter = max((len(str(span.line)) for span in placed), default=1)
        if diagnostic.span:
            rows += self.picture(diagnostic.span, "^", strong, gutter)
        for note in diagnostic.notes:
            rows.append(self.margin(gutter, "=") + f" note: {printable(note.text)}")
            if note.span:
                rows += self.picture(note.span, "-", _BLUE, gutter)
        if diagnostic.help:
            rows.append(self.margin(gutter, "=") + f" help: {printable(diagnostic.help)}")
        return "\n".join(rows)

    def margin(self, gutter: int, mark: str, number: str = "") -> str:
        return self.paint(_BLUE, f"{number:>{gutter}} {mark}")

    def picture(self, span: Span, mark: str, color: str, gutter: int) -> list[str]:
        """The place, and where the file can be read its line with the span underlined."""
        rows = [self.paint(_BLUE, " " * gutter + "-->") + f" {printable(str(span))}"]
        lines = self.source(span.file)
        if 0 < span.line <= len(lines):
            text, before, width = _clipped(lines[span.line - 1], span.column - 1, span.end_column - 1)
            rows.append(self.margin(gutter, "|"))
            rows.append(f"{self.margin(gutter, '|', str(span.line))} {text}".rstrip())
            rows.append(f"{self.margin(gutter, '|')} {' ' * before}{self.paint(color, mark * width)}")
        return rows

    def source(self, file: str) -> list[str]:
        if file not in self.lines:
            try:
                self.lines[file] = read_text_file(Path(file), file).removeprefix("\ufeff").splitlines()
            except LlmcError:
                self.lines[file] = []
        return self.lines[file]


def _clipped(line: str, start: int, end: int) -> tuple[str, int, int]:
    """The shown line, cut around the span where it is long, the columns before the underline, and its width."""
    start = min(max(start, 0), len(line))
    end = min(max(end, start), len(line))
    first = 0 if end <= MAX_LINE_WIDTH else max(0, start - MAX_LINE_WIDTH // 3)
    last = min(len(line), first + MAX_LINE_WIDTH)
    left, right = ("…" if first else ""), ("…" if last < len(line) else "")
    before, under, after = (
        "".join(map(_shown, line[a:b])) for a, b in ((first, start), (start, min(end, last)), (min(end, last), last))
    )
    return f"{left}{before}{under}{after}{right}", _width(left + before), max(1, _width(under))


def _shown(character: str) -> str:
    return _TAB if character == "\t" else printable_character(character)


def _width(text: str) -> int:
    """The columns that a terminal gives the text: two for a wide character, none for a combining one."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )
