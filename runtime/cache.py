"""What a request keeps between calls: the states of every layer, and how many tokens each row holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from ..compiler.ops.declaration import StateSpec
from ..kernels.states import STATES
from ..specs.diagnostics import fail
from .execute import State


class Cache:
    """States for `batch_size` rows of at most `max_seq_len` tokens. Pass it to the model, which appends."""

    def __init__(
        self,
        specs: Mapping[str, StateSpec],
        *,
        batch_size: int,
        max_seq_len: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.specs = dict(specs)
        self.batch_size, self.max_seq_len = batch_size, max_seq_len
        self.states: dict[str, State] = {
            path: STATES[spec.kind].allocate(spec.sizes, batch_size, max_seq_len, dtype, device)
            for path, spec in specs.items()
        }
        self.lengths = torch.zeros(batch_size, dtype=torch.int64, device=device)  # [B]
        self.kept: dict[str, Tensor] = {}
        """Values of `once` inputs, computed at the first call."""
        self._reached = [0] * batch_size

    @property
    def length(self) -> int:
        """Tokens in the longest row."""
        return int(self.lengths.max())

    @property
    def bytes(self) -> int:
        """Bytes that are allocated."""
        return sum(buffer.nbytes for state in self.states.values() for buffer in state)

    def reserve(self, new: Tensor) -> None:
        """Check that `new [B]` more tokens fit each row. Raises E0801 before anything is computed."""
        needed = int((self.lengths + new).max())
        if needed > self.max_seq_len:
            raise fail(
                "E0801",
                f"{needed} tokens do not fit the context of {self.max_seq_len}",
                help="shorten the prompt, ask for fewer new tokens, or make the cache with a larger max_seq_len",
            )

    def advance(self, new: Tensor) -> None:
        """Count `new [B]` tokens that were appended."""
        self.lengths = self.lengths + new
        self._reached = [max(old, now) for old, now in zip(self._reached, self._row_lengths(), strict=True)]

    def _row_lengths(self) -> list[int]:
        return cast("list[int]", self.lengths.tolist())  # pyright: ignore[reportUnknownMemberType]

    def rollback(self, n: int) -> None:
        """Forget the last `n` tokens of every row. Raises E0802 where a row is shorter, or a state cannot go back so far."""
        shortest = int(self.lengths.min())
        if not 0 <= n <= shortest:
            raise fail("E0802", f"cannot take back {n} tokens: the shortest row holds {shortest}")
        for path, spec in self.specs.items():
            kind = STATES[spec.kind]
            for reached, length in zip(self._reached, self._row_lengths(), strict=True):
                reason = kind.refuse_rollback(spec.sizes, self.max_seq_len, reached, length - n)
                if reason is not None:
                    raise fail("E0802", f"{path} cannot take back {n} tokens: {reason}")
        self.lengths = self.lengths - n
