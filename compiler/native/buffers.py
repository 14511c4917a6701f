"""The memory plan: which intermediate values share memory, from when each is first written and last read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ALIGNMENT = 16
"""In floats: every buffer begins on a cache line."""


@dataclass(slots=True, kw_only=True)
class Buffer:
    """So many floats a row, alive from step `first` to step `last`, both included."""

    name: str
    floats: int
    first: int
    last: int
    offset: int = 0
    """Floats a row that lie before it, once placed."""


def place(buffers: Iterable[Buffer]) -> int:
    """Give every buffer an offset such that no two that live at one step overlap; returns the floats a row in all.

    The widest are placed first, each into the lowest gap that fits.
    """
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: (-b.floats, b.first, b.name)):
        rivals = sorted(
            (b for b in placed if b.first <= buffer.last and buffer.first <= b.last), key=lambda b: b.offset
        )
        offset = 0
        for rival in rivals:
            if offset + buffer.floats <= rival.offset:
                break
            offset = max(offset, rival.offset + rounded(rival.floats))
        buffer.offset = offset
        placed.append(buffer)
    return max((b.offset + rounded(b.floats) for b in placed), default=0)


def rounded(floats: int) -> int:
    """The next multiple of the alignment."""
    return -(-floats // ALIGNMENT) * ALIGNMENT
