"""One decoded token for every row of a batch, in buffers that never move: what a CUDA graph records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, cast

import torch
from torch import Tensor

from ..execute import State
from ..sampling import Drawing
from .draw_settings import DrawSettings

MAX_STEPS = 256
"""Tokens a row that are decoded before the host looks."""
MAX_ENDS = 16
"""Ids that end a row."""

RunPass: TypeAlias = Callable[[Tensor, Tensor, Tensor, dict[str, State]], Tensor]
"""Tokens `[B, 1]`, position `[B, 1]`, lengths `[B]` and the states -> logits `[B, V]`; writes into the states."""


class DecodeStep:
    """The buffers of one cache's decoding, and the step that reads and writes nothing else.

    A row that has ended is padding: its position is -1, and it draws -1. So is a row whose logits are not finite.
    """

    def __init__(self, run: RunPass, settings: DrawSettings, states: Mapping[str, State], rows: int) -> None:
        self.run, self.settings, self.states = run, settings, dict(states)
        device = settings.seed.device
        self.tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=device)
        self.is_active = torch.zeros(rows, dtype=torch.bool, device=device)
        self.ends = torch.full((MAX_ENDS,), -1, dtype=torch.int64, device=device)
        self.drawn = torch.full((MAX_STEPS, rows), -1, dtype=torch.int64, device=device)
        self.index = torch.zeros(1, dtype=torch.int64, device=device)
        """Of the step within `drawn`."""

    def begin(self, tokens: Sequence[int], lengths: Sequence[int], ends: Sequence[int], drawing: Drawing) -> None:
        """Set what the next steps start from. tokens: the last of each row, -1 where it has ended."""
        self.settings.begin(drawing)
        device = self.tokens.device
        given = torch.tensor(list(tokens), dtype=torch.int64)
        self.is_active.copy_((given >= 0).to(device), non_blocking=True)
        self.tokens.copy_(given.clamp(min=0).to(device), non_blocking=True)
        self.lengths.copy_(torch.tensor(list(lengths), dtype=torch.int64).to(device), non_blocking=True)
        stops = torch.tensor([*ends, *([-1] * (MAX_ENDS - len(ends)))], dtype=torch.int64)
        self.ends.copy_(stops.to(device), non_blocking=True)
        self.index.zero_()

    def step(self) -> None:
        """One token. With no active row it changes nothing."""
        position = torch.where(self.is_active, self.lengths, -1)[:, None]
        logits = self.run(self.tokens[:, None], position, self.lengths, self.states)
        chosen = self.settings.choose(logits)
        is_sound = (chosen >= 0) & self.is_active
        self.drawn.index_copy_(0, self.index, torch.where(is_sound, chosen, -1)[None])
        self.lengths.add_(self.is_active)
        self.tokens.copy_(torch.where(is_sound, chosen, 0))
        self.is_active.copy_(is_sound & ~(chosen[:, None] == self.ends).any(1))
        self.index.add_(1).clamp_(max=MAX_STEPS - 1)

    def read(self, steps: int) -> list[list[int]]:
        """The tokens of each row since `begin`: the one time that the host waits."""
        rows = cast("list[list[int]]", self.drawn[:steps].T.tolist())  # pyright: ignore[reportUnknownMemberType]
        drawn = [[token for token in row if token >= 0] for row in rows]
        self.settings.end(drawn, steps)
        return drawn
