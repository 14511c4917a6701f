"""How a row of tokens is taken in chunks: spans one after another, segments of a span side by side.

What lies between the kernels is made for one span at a time, so that its memory does not grow with the row. A walk from
chunk to chunk waits for each, so that few heads leave a GPU idle: then a span is cut into segments. Each is first
walked for what it alone leaves in the state and for its crossing, the matrix by which it takes a state on; the states
before all follow from one product a segment, and the walk proper starts from these.

Counted in products of `2 * C * Dk * Dv`, the walk proper takes 3.5 a chunk and the one before it 4 where the state is
erased (then crossings are matrices, else a factor a channel: 1). S segments where S times the programs fit the GPU take
`7.5 / (3.5 * S)` of the time, so that three are the fewest that pay; `3.5 / (2.5 * S)` without erasing, so two.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..gpu.sizes import at_least, at_most, ceil_div, power_of_2

CHUNK = 64
SUB = 16
AT_ONCE = 132
"""Programs of a walk that run together: one for each multiprocessor of an H100, whose registers it fills."""
SHORTEST = 8
"""Chunks of a segment, and of a span: the passing of states costs as much as two."""
HELD = 2**18
"""Tokens times heads of a span: its launches have programs enough, its memory is about a gigabyte."""
WIDEST_CROSSING = 128
"""Elements of a key: a crossing `[Dk, Dk]` float32 and a state lie in shared memory together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The parts of a row; a segment is whole chunks and a span whole segments, but for the last of each."""

    tokens: int
    segment: int
    """Tokens."""
    span: int
    """Tokens."""

    @property
    def chunk(self) -> int:
        """Tokens; few tokens take a shorter one."""
        return min(CHUNK, max(SUB, power_of_2(self.tokens)))

    @property
    def segments(self) -> int:
        """Of the whole row."""
        return ceil_div(self.tokens, self.segment)

    def spans(self) -> list[tuple[int, int]]:
        """The first token and the number of tokens of each span."""
        return [(begin, min(self.span, self.tokens - begin)) for begin in range(0, self.tokens, self.span)]

    def of_span(self, states: Tensor, begin: int, count: int) -> Tensor:
        """Of `states` `[S, …]` before each segment of the row, those of the span's."""
        first = begin // self.segment
        return states[first : first + ceil_div(count, self.segment)]


def cut(*, tokens: int, heads: int, key_dim: int, value_dim: int, is_solved: bool) -> Cut:
    """The rule for a row of `tokens`, at least one, where a batch has `heads` in all.

    Without a branch on either, so that a program can be exported for every length.
    """
    chunks = ceil_div(tokens, CHUNK)
    each = ceil_div(chunks, ceil_div(chunks, at_least(SHORTEST, HELD // (heads * CHUNK))))
    fits = AT_ONCE // (heads * ceil_div(value_dim, columns(key_dim, value_dim)))
    fewest = 3 if is_solved else 2
    is_paid = 0 if is_solved and key_dim > WIDEST_CROSSING else at_most(1, fits // fewest)
    segment = ceil_div(each, at_least(1, is_paid * at_most(fits, each // SHORTEST)))
    return Cut(tokens=tokens, segment=segment * CHUNK, span=ceil_div(each, segment) * segment * CHUNK)


def columns(key_dim: int, value_dim: int) -> int:
    """Of a state that one program of a walk holds, in at most 32 registers a thread."""
    return max(16, min(power_of_2(value_dim), 64, 8192 // max(16, power_of_2(key_dim))))
