"""The events of one YAML document, refused as soon as they exceed a limit, so that a bomb is never built.

PyYAML supplies the stream; its exceptions become diagnostics here. Aliases count at their expanded size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import yaml
from yaml import events

from .diagnostics import LlmcError, Note, fail, quoted
from .source import Span

MAX_NODES = 100_000
MAX_DEPTH = 64

_LOADER = cast("type[yaml.SafeLoader]", getattr(yaml, "CSafeLoader", yaml.SafeLoader))
_SYNTAX_HELP = {
    "mapping values are not allowed": 'put text that holds ": " between quotes',
    "could not find expected ':'": "every line of a map is `key: value`",
    "did not find expected ',' or '}'": "close the map with }, separate its entries with commas, and close each quote",
    "did not find expected ',' or ']'": "close the list with ] and separate its items with commas",
    "did not find expected node content": "a value, or a closing bracket, is missing here",
    "found unexpected end of stream": "close the quoted text",
    "cannot start any token": "put text that starts with this character between quotes",
    "did not find expected key": "align this line with the other keys of its map",
    "did not find expected '-' indicator": "align this line with the other items of its list",
    "unknown escape character": "write \\\\ for a backslash, or use single quotes",
}
_OTHERWISE = "put text that holds special characters between quotes, and indent by spaces"


def point(file: str, line: int, column: int) -> Span:
    """The one-character span at a line and column that count from 0."""
    return Span(file=file, line=line + 1, column=column + 1, end_column=column + 2)


def at(file: str, mark: Any) -> Span:
    """The one-character span at a mark."""
    return point(file, mark.line, mark.column)


def parse_events(text: str, file: str) -> Iterator[Any]:
    """PyYAML's events, with its exceptions turned into diagnostics."""
    try:
        yield from cast("Iterable[Any]", yaml.parse(text, Loader=_LOADER))  # pyright: ignore[reportUnknownMemberType]
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, file) from None
    except yaml.YAMLError as error:
        raise fail("E0107", f"{quoted(file)} is not valid YAML: {error}") from None


def _syntax_error(error: yaml.MarkedYAMLError, text: str, file: str) -> LlmcError:
    mark = error.problem_mark or error.context_mark
    problem = error.problem or "it cannot be parsed"
    if mark is None:
        return fail("E0107", f"{quoted(file)} is not valid YAML: {problem}")
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    indent = line[: len(line) - len(line.lstrip(" \t"))]
    if "\t" in indent:
        span = point(file, mark.line, indent.index("\t"))
        return fail("E0108", "a tab cannot indent YAML", span, help="indent with spaces")
    notes: list[Note] = []
    if error.context and error.context_mark:
        notes.append(Note(text=error.context, span=at(file, error.context_mark)))
    remedy = _remedy(problem, lines, mark.line)
    return fail("E0107", f"this is not valid YAML: {problem}", at(file, mark), notes=notes, help=remedy)


def _remedy(problem: str, lines: list[str], number: int) -> str:
    """What to do about a syntax error that PyYAML sees at a line, which counts from 0."""
    near = lines[max(0, number - 1) : number + 1]
    if any("\u00a0" in line for line in near):
        return "a no-break space (U+00A0) indents nothing: write a plain space"
    if "mapping values are not allowed" in problem and len(near) == 2 and _is_deeper(*near):
        return "indent this line like the one before it, which has its value already"
    return next((remedy for part, remedy in _SYNTAX_HELP.items() if part in problem), _OTHERWISE)


def _is_deeper(before: str, line: str) -> bool:
    """Whether a line is indented more than the line before it, whose key has a value beside it."""
    indents = [len(text) - len(text.lstrip(" ")) for text in (before, line)]
    _, colon, value = before.partition(":")
    return indents[1] > indents[0] and bool(colon) and value.strip() not in ("", "|", ">")


def check_limits(text: str, file: str) -> None:
    """Refuses a text with too many nodes, too many levels, an unknown or self-holding alias, or a second document."""
    nodes = 0
    documents = 0
    heights: list[int] = []  # of each open collection: the levels that its children need
    opened: list[tuple[str | None, int]] = []  # of each open collection: its anchor, and `nodes` before it
    anchors: dict[str, tuple[int, int] | None] = {}  # the expanded nodes and the height, None while still open
    for event in parse_events(text, file):
        kind = cast("type[object]", type(event))
        size = height = 0
        if kind is events.ScalarEvent:
            size = 1
            if event.anchor is not None:
                anchors[event.anchor] = (1, 0)
        elif kind is events.MappingStartEvent or kind is events.SequenceStartEvent:
            size = 1
            if event.anchor is not None:
                anchors[event.anchor] = None
            opened.append((event.anchor, nodes))
            heights.append(0)
        elif kind is events.MappingEndEvent or kind is events.SequenceEndEvent:
            anchor, before = opened.pop()
            height = heights.pop() + 1
            if anchor is not None:
                anchors[anchor] = (nodes - before, height)
            if heights:
                heights[-1] = max(heights[-1], height)
            continue
        elif kind is events.AliasEvent:
            size, height = _expanded(event, anchors, file)
            if heights:
                heights[-1] = max(heights[-1], height)
        elif kind is events.DocumentStartEvent:
            documents += 1
            if documents > 1:
                remedy = "write each spec in its own file"
                raise fail("E0109", "a spec is one YAML document", at(file, event.start_mark), help=remedy)
        nodes += size
        if nodes > MAX_NODES:
            message = f"this file holds more than {MAX_NODES:,} YAML nodes (aliases count at their expanded size)"
            remedy = "say repetition with `repeat:` and expressions"
            raise fail("E0112", message, at(file, event.start_mark), help=remedy)
        if len(heights) + height > MAX_DEPTH:
            message = f"YAML nested more than {MAX_DEPTH} levels deep"
            raise fail("E0113", message, at(file, event.start_mark), help="name inner parts as blocks")


def _expanded(event: events.AliasEvent, anchors: dict[str, tuple[int, int] | None], file: str) -> tuple[int, int]:
    """The expanded nodes and the height of what an alias stands for."""
    name = cast("str", event.anchor)
    span = at(file, event.start_mark)
    if name not in anchors:
        remedy = f"write {quoted('&' + name)} before the node it stands for"
        raise fail("E0115", f"no anchor is named {quoted(name)}", span, help=remedy)
    known = anchors[name]
    if known is None:
        message = f"the alias {quoted('*' + name)} stands inside the node it names"
        raise fail("E0114", message, span, help="write the part out")
    return known
