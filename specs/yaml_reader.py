"""Bounded YAML 1.2 with positions: text in, a `YamlMap` out, or a diagnostic for each mistake in the text.

The events are read twice: `yaml_events.py` checks the limits, then the tree is built, so that a bomb never is.
Scalars follow the YAML 1.2 core schema (`1e-5` is a float and `on` a string), unlike PyYAML's own resolver. Tags,
merge keys, duplicate keys and non-string keys are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from yaml import events

from .diagnostics import Diagnostic, LlmcError, Note, fail, quoted
from .source import Plain, Span, YamlEntry, YamlList, YamlMap, YamlNode, YamlScalar
from .text_files import MAX_BYTES, TOO_LARGE, read_text_file
from .yaml_events import at, check_limits, parse_events, point

MAX_INT_DIGITS = 18
MAX_REPORTED = 50

# U+0085, U+2028 and U+2029 end a line for YAML 1.1 parsers only: refused, so that every reader counts the same lines.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_WORDS: dict[str, Plain] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((sign + word for sign in ("", "+") for word in (".inf", ".Inf", ".INF")), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}


def read_yaml_file(path: Path, display: str) -> YamlMap:
    """The map in a file. `display` is the name that spans and messages give the file.

    Raises LlmcError where it is absent, not a regular file, larger than 1 MiB, not UTF-8, or not a legal map.
    """
    return read_yaml(read_text_file(path, display), display)


@lru_cache(maxsize=64)
def read_yaml(text: str, file: str) -> YamlMap:
    """The map in a YAML text, each node with its span in `file`. Raises LlmcError, with every mistake it found.

    The tree is never changed, so that specs which extend one another read a text once.
    """
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise fail("E0104", f"{quoted(file)} is larger than 1 MiB", help=TOO_LARGE)
    if bad := _FORBIDDEN.search(text):
        before = (text[: bad.start()] + "x").splitlines()
        span = point(file, len(before) - 1, len(before[-1]) - 1)
        message = f"the character U+{ord(bad.group()):04X} is not allowed in a spec"
        raise fail("E0106", message, span, help='inside double quotes, write it as an escape such as "\\x1b"')
    check_limits(text, file)
    return _Builder(text, file).build()


class _Builder:
    """Turns checked events into the positioned tree, and gathers the mistakes that leave a tree standing."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.lines: list[str] = text.splitlines()
        self.anchors: dict[str, YamlNode] = {}
        self.mistakes: list[Diagnostic] = []
        parsed = parse_events(text, file)
        self.events: Iterator[Any] = (e for e in parsed if isinstance(e, (events.NodeEvent, events.CollectionEndEvent)))

    def build(self) -> YamlMap:
        first = next(self.events, None)
        if first is None:
            raise fail("E0110", f"{quoted(self.file)} is empty", help="a spec starts with `llmc: 1` and `name:`")
        root = self._node(first)
        if self.mistakes:
            raise LlmcError(self.mistakes[:MAX_REPORTED])
        if not isinstance(root, YamlMap):
            remedy = "a spec starts with `llmc: 1` and `name:`"
            raise fail("E0111", "a spec is a map of keys to values", root.span, help=remedy)
        return root

    def _node(self, event: Any) -> YamlNode:
        if isinstance(event, events.AliasEvent):
            return self.anchors[str(event.anchor)]
        if event.tag is not None:
            shown = quoted(str(event.tag).replace("tag:yaml.org,2002:", "!!"))
            span = at(self.file, event.start_mark)
            self._mistake("E0116", f"the tag {shown} is not allowed in a spec", span, help="write the plain value")
        node: YamlNode
        if isinstance(event, events.ScalarEvent):
            node = self._scalar(event)
        elif isinstance(event, events.SequenceStartEvent):
            items: list[YamlNode] = []
            while not isinstance(item := next(self.events), events.SequenceEndEvent):
                items.append(self._node(item))
            node = YamlList(items=tuple(items), span=self._span(event, item, (i.span for i in items)))
        else:
            node = self._map(event)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _map(self, start: Any) -> YamlMap:
        entries: dict[str, YamlEntry] = {}
        inner: list[Span] = []
        while not isinstance(event := next(self.events), events.MappingEndEvent):
            key_span = at(self.file, event.start_mark)
            key = self._node(event)
            if isinstance(key, YamlScalar) and not isinstance(event, events.AliasEvent):
                key_span = key.span
            value = self._node(next(self.events))
            inner += (key_span, value.span)
            if not isinstance(key, YamlScalar) or not isinstance(key.value, str):
                remedy = "put the key between quotes" if isinstance(key, YamlScalar) else "a key is a name"
                self._mistake("E0119", "a key has to be a string", key_span, help=remedy)
            elif key.value == "<<" and not key.is_quoted:
                remedy = "use `extends:` for a whole spec, or a block for a repeated part"
                self._mistake("E0117", "YAML merge keys are not part of the spec language", key_span, help=remedy)
            elif key.value in entries:
                note = Note(text="first written here", span=entries[key.value].key_span)
                message = f"the key {quoted(key.value)} is written twice in this map"
                self._mistake("E0118", message, key_span, (note,), "keep one of the two")
            else:
                entries[key.value] = YamlEntry(key=key.value, key_span=key_span, value=value)
        return YamlMap(entries=entries, span=self._span(start, event, inner))

    def _scalar(self, event: Any) -> YamlScalar:
        span = self._span(event, event, ())
        if event.style:
            return YamlScalar(value=event.value, span=span, is_quoted=True)
        text: str = event.value
        if text in _WORDS:
            return YamlScalar(value=_WORDS[text], span=span)
        if _INT.fullmatch(text):
            return YamlScalar(value=self._integer(text, span), span=span)
        if _FLOAT.fullmatch(text):
            value = float(text)
            if math.isinf(value):
                self._mistake("E0121", "this number is too large for a float", span, help="write .inf for infinity")
            return YamlScalar(value=value, span=span)
        return YamlScalar(value=text, span=span)

    def _integer(self, text: str, span: Span) -> int:
        base = {"0x": 16, "0o": 8}.get(text[:2], 10)
        digits = len(text.lstrip("+-")) - (2 if base != 10 else 0)
        value = int(text, base) if digits <= MAX_INT_DIGITS else None
        if value is None or value >= 10**MAX_INT_DIGITS:
            message = f"an integer has at most {MAX_INT_DIGITS} digits"
            self._mistake("E0120", message, span, help="put it between quotes if it is text")
            return 0
        return value

    def _span(self, start: Any, end: Any, inner: Iterable[Span]) -> Span:
        """From the start mark to the end mark, or to the end of what stands on the first line."""
        first, last = start.start_mark, end.end_mark
        if last.line == first.line:
            end_column = last.column + 1
        elif isinstance(start, events.ScalarEvent):
            end_column = len(self.lines[int(first.line)].rstrip()) + 1
        else:
            on_line = [span.end_column for span in inner if span.line == first.line + 1]
            end_column = max(on_line, default=first.column + 2)
        return Span(file=self.file, line=first.line + 1, column=first.column + 1, end_column=end_column)

    def _mistake(self, code: str, message: str, span: Span, notes: tuple[Note, ...] = (), help: str = "") -> None:
        self.mistakes.append(Diagnostic(code=code, message=message, span=span, notes=notes, help=help or None))
