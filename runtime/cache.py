"""What a request keeps between calls: the states of every layer, and how many tokens each row holds."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import cast

import torch
from torch import Tensor

from ..compiler.axes import AMBIENT, ambient_parts
from ..compiler.ops.declaration import StateSpec
from ..kernels.states import STATES
from ..specs.diagnostics import fail
from .execute import State

UNBOUNDED = 2**62
"""The `max_seq_len` of a cache whose size does not depend on it."""


def has_constant_size(specs: Mapping[str, StateSpec]) -> bool:
    """Whether none of these states grows with the tokens, so that a cache needs no limit."""
    return bool(specs) and all(STATES[spec.kind].rollback == "snapshot" for spec in specs.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Snapshot:
    """The states that tokens cannot be cut from, as they were before a call."""

    lengths: list[int]
    states: Mapping[str, State]


class Cache:
    """States for `batch_size` rows of at most `max_seq_len` tokens. Pass it to the model, which appends.

    States that grow with the tokens can be cut. Those of constant size (recurrent matrices, convolution tails) only go
    back to where a call began, for the last `snapshots` calls, each of which costs a copy of them; and to nothing.
    """

    def __init__(
        self,
        specs: Mapping[str, StateSpec],
        *,
        batch_size: int,
        max_seq_len: int,
        dtype: torch.dtype,
        device: torch.device,
        snapshots: int = 0,
        kv_dtype: torch.dtype | None = None,
    ) -> None:
        """dtype: the model's; kv_dtype: of keys and values where the kernels take another."""
        self.specs = dict(specs)
        self.batch_size, self.max_seq_len = batch_size, max_seq_len
        self.dtype = dtype
        self.kv_dtype = kv_dtype or dtype
        self.lengths = torch.zeros(batch_size, dtype=torch.int64, device=device)  # [B]
        self.kept: dict[str, Tensor] = {}
        """What the first call computed of the inputs that are given once, and the ambient tensors of their axes."""
        self.states: dict[str, State] = {
            path: STATES[spec.kind].allocate(
                spec.sizes,
                batch_size,
                max_seq_len,
                self.kv_dtype if STATES[spec.kind].may_be_shorter else dtype,
                device,
            )
            for path, spec in specs.items()
            if STATES[spec.kind].axis == "stream"
        }
        self._forget_once()
        self._reached = [0] * batch_size
        self._constant = [path for path, spec in specs.items() if STATES[spec.kind].rollback == "snapshot"]
        self._snapshots: deque[_Snapshot] = deque(maxlen=snapshots)

    @property
    def length(self) -> int:
        """Tokens in the longest row."""
        return int(self.lengths.max())

    @property
    def bytes(self) -> int:
        """Bytes that are allocated, kept snapshots included."""
        kept = [*self.states.values(), *(state for snapshot in self._snapshots for state in snapshot.states.values())]
        return sum(buffer.nbytes for state in (*kept, tuple(self.kept.values())) for buffer in state)

    def reserve(self, new: Tensor) -> None:
        """Check that `new [B]` more tokens fit each row. Raises E0801 before anything is computed."""
        needed = int((self.lengths + new).max())
        if needed > self.max_seq_len:
            raise fail(
                "E0801",
                f"{needed} tokens do not fit the context of {self.max_seq_len}",
                help="shorten the prompt, ask for fewer new tokens, or make the cache with a larger max_seq_len",
            )
        if self._constant and self._snapshots.maxlen:
            kept = {path: tuple(buffer.clone() for buffer in self.states[path]) for path in self._constant}
            self._snapshots.append(_Snapshot(lengths=self.row_lengths(), states=kept))

    def advance(self, new: Tensor) -> None:
        """Count `new [B]` tokens that were appended."""
        self.lengths = self.lengths + new
        self._reached = [max(old, now) for old, now in zip(self._reached, self.row_lengths(), strict=True)]

    def row_lengths(self) -> list[int]:
        """Tokens in each row."""
        return cast("list[int]", self.lengths.tolist())  # pyright: ignore[reportUnknownMemberType]

    def rollback(self, n: int) -> None:
        """Forget the last `n` tokens of every row. What was given once stays.

        Raises E0802 where a row is shorter, or a state cannot go back so far.
        """
        shortest = int(self.lengths.min())
        if not 0 <= n <= shortest:
            raise fail("E0802", f"cannot take back {n} tokens: the shortest row holds {shortest}")
        for path, spec in self.specs.items():
            kind = STATES[spec.kind]
            for reached, length in zip(self._reached, self.row_lengths(), strict=True):
                reason = kind.refuse_rollback(spec.sizes, self.max_seq_len, reached, length - n)
                if reason is not None:
                    raise fail("E0802", f"{path} cannot take back {n} tokens: {reason}")
        if self._constant and n > 0:
            self._restore(n)
        self.lengths = self.lengths - n

    def part(self, rows: int) -> Cache:
        """An empty cache of the first `rows` rows of this empty one, in the same memory."""
        made = copy.copy(self)
        made.batch_size, made.lengths = rows, self.lengths[:rows].clone()
        made.kept, made._reached, made._snapshots = {}, [0] * rows, deque(maxlen=0)
        made.states = {path: tuple(buffer[:rows] for buffer in state) for path, state in self.states.items()}
        return made

    def spread(self, part: Cache) -> None:
        """Let each row of `part` be as many rows of this cache as there are to it: row 0 is rows 0 to n-1, and so on.

        States of what is given once stay as they are: their rows are shared, unless what is kept beside them must be
        as many rows as the stream's.
        """
        count = self.batch_size // part.batch_size
        self.lengths = part.lengths.repeat_interleave(count)
        self._reached = self.row_lengths()
        has_own = any(ambient_parts(name)[0] not in AMBIENT for name in part.kept)
        self.kept |= {name: x.repeat_interleave(count, 0) for name, x in part.kept.items()} if has_own else part.kept
        for path, state in part.states.items():
            if STATES[self.specs[path].kind].reorder == "shared":
                self.states[path] = tuple(x.repeat_interleave(count, 0) for x in state) if has_own else state
                continue
            for mine, given in zip(self.states[path], state, strict=True):
                for row in reversed(range(part.batch_size)):  # they may lie in the same memory
                    mine[row * count : (row + 1) * count] = given[row].clone()

    def reorder(self, source: Sequence[int], first: Sequence[int]) -> None:
        """Let row r go on from row source[r], which holds as many tokens, the same ones up to first[r]; a source is its
        own source. Of states that grow with the tokens only what differs is copied."""
        moved = [(row, of) for row, of in enumerate(source) if row != of]
        lengths = self.row_lengths() if moved else []
        for path, state in self.states.items():
            law = STATES[self.specs[path].kind].reorder
            if law == "shared":
                continue
            for buffer, (row, of) in product(state, moved):
                if law == "whole":
                    buffer[row] = buffer[of]
                    continue
                for slots in runs(first[row], lengths[row], buffer.shape[2]):
                    buffer[row, :, slots] = buffer[of, :, slots]

    def reset(self) -> None:
        """Forget everything: the cache is as new."""
        self.lengths = torch.zeros_like(self.lengths)
        self._reached = [0] * self.batch_size
        self._forget_once()
        self._snapshots.clear()
        for path in self._constant:
            _clear(self.states[path])

    def _forget_once(self) -> None:
        """States of other axes than the stream's hold nothing until the first call brings their tokens."""
        self.kept.clear()
        for path, spec in self.specs.items():
            kind = STATES[spec.kind]
            if kind.axis == "once":
                self.states[path] = kind.allocate(spec.sizes, self.batch_size, 0, self.dtype, self.lengths.device)

    def _restore(self, n: int) -> None:
        """Put the states of constant size back to what they were `n` tokens ago.

        Raises E0802 where that was not kept.
        """
        wanted = [length - n for length in self.row_lengths()]
        if not any(wanted):
            self._snapshots.clear()
            for path in self._constant:
                _clear(self.states[path])
            return
        depth = next((i for i, kept in enumerate(reversed(self._snapshots)) if kept.lengths == wanted), None)
        if depth is None:
            path = self._constant[0]
            raise fail(
                "E0802",
                f"{path} cannot take back {n} tokens: a {self.specs[path].kind} state goes back to where one of the "
                f"last {self._snapshots.maxlen} calls began, or to nothing",
                help="make the cache with snapshots=N, and give tokens that may be taken back in calls of their own",
            )
        for _ in range(depth):
            self._snapshots.pop()
        for path, state in self._snapshots.pop().states.items():
            for buffer, kept in zip(self.states[path], state, strict=True):
                buffer.copy_(kept)


def runs(first: int, last: int, slots: int) -> Iterator[slice]:
    """Where the tokens at positions first to last - 1 lie in a ring of so many slots, as far as it still holds them."""
    first = max(first, last - slots)
    while first < last:
        start = first % slots
        end = min(slots, start + last - first)
        yield slice(start, end)
        first += end - start


def _clear(state: State) -> None:
    for buffer in state:
        buffer.zero_()
