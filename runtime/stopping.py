"""When a row stops, and how much of its text may be shown before that is known.

Text that may be the beginning of a stop string is held back, so that a client never sees part of one; the result is
the same however the text is cut into tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from ..specs.diagnostics import Diagnostic, LlmcError

FinishReason: TypeAlias = Literal["stop", "length", "eos"]

MAX_STOP_STRINGS = 64
MAX_STOP_LENGTH = 1024


class StreamedText(Protocol):
    """Tokens in, complete text out: `tokenizer.Detokenizer`."""

    def push(self, id: int) -> str: ...
    def flush(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """What ends a row: a token limit, end-of-sequence ids (reason `eos`), ids and strings of the request (`stop`)."""

    max_new_tokens: int
    eos_ids: tuple[int, ...] = ()
    stop_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problems: list[str] = []
        if self.max_new_tokens < 1:
            problems.append(f"max_new_tokens is {self.max_new_tokens}; expected at least 1")
        if len(self.stop) > MAX_STOP_STRINGS:
            problems.append(f"{len(self.stop)} stop strings; at most {MAX_STOP_STRINGS} are allowed")
        if any(not 0 < len(text) <= MAX_STOP_LENGTH for text in self.stop):
            problems.append(f"a stop string is empty or longer than {MAX_STOP_LENGTH} characters")
        if problems:
            raise LlmcError([Diagnostic(code="E0857", message=problem) for problem in problems])


class StopWatch:
    """The state of one row. Give it every new token; it returns the text that may be shown."""

    def __init__(self, stopping: Stopping, text: StreamedText | None = None) -> None:
        self._stopping = stopping
        self._text = text
        self._held = ""
        self.num_tokens = 0
        self.finish_reason: FinishReason | None = None
        self._ends = frozenset((*stopping.eos_ids, *stopping.stop_ids))

    def push_plain(self, tokens: Sequence[int]) -> int:
        """Count tokens at once where there is no text to watch and none of them ends the row; gives how many belong to
        it, which is 0 where they must be pushed one by one."""
        if self._text is not None or self.finish_reason is not None or not self._ends.isdisjoint(tokens):
            return 0
        taken = min(len(tokens), self._stopping.max_new_tokens - self.num_tokens)
        self.num_tokens += taken
        if self.num_tokens == self._stopping.max_new_tokens:
            self._end("length")
        return taken

    def push(self, token: int) -> str:
        """Count `token` and return newly safe text. The text of an id that stops the row is not shown."""
        if self.finish_reason is not None:
            raise RuntimeError("the row has finished")
        self.num_tokens += 1
        if token in self._stopping.eos_ids:
            return self._end("eos")
        if token in self._stopping.stop_ids:
            return self._end("stop")
        shown = self._scan(self._text.push(token)) if self._text else ""
        if self.finish_reason is None and self.num_tokens >= self._stopping.max_new_tokens:
            shown += self._end("length")
        return shown

    def finish(self) -> str:
        """Give up what is held (a cancelled row); the reason stays None unless a stop string was in it."""
        shown = self._scan(self._text.flush()) if self._text else ""
        rest, self._held = self._held, ""
        return shown + rest

    def _end(self, reason: FinishReason) -> str:
        shown = self.finish()
        if self.finish_reason is None:
            self.finish_reason = reason
        return shown

    def _scan(self, piece: str) -> str:
        """Text before the first stop string to be completed (the longest, where several end together)."""
        self._held += piece
        starts = [(start + len(stop), start) for stop in self._stopping.stop if (start := self._held.find(stop)) >= 0]
        if starts:
            shown, self._held = self._held[: min(starts)[1]], ""
            self.finish_reason = "stop"
            return shown
        keep = max((_overlap(self._held, stop) for stop in self._stopping.stop), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
