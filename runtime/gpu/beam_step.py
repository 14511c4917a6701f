"""One step of a beam search for every prompt of a batch, in buffers that never move: what a CUDA graph records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor

from ...compiler.ops.declaration import StateSpec
from ...kernels.cache.rows import Part, copy_rows, parts_of
from ...kernels.kernel import resolve
from ...kernels.states import STATES
from ..beams import Beams, Record
from ..execute import State
from .decode_step import MAX_STEPS, RunPass


class BeamStep:
    """The buffers of one cache's search, and the step that reads and writes nothing else.

    The rows of a prompt that is done are padding: their position is -1.
    """

    def __init__(self, run: RunPass, beams: Beams, states: Mapping[str, State], specs: Mapping[str, StateSpec]) -> None:
        self.run, self.beams, self.states = run, beams, dict(states)
        device = beams.tokens.device
        seen: list[Part] = [] if beams.seen is None else [(beams.seen, True)]
        parts = [*parts_of((STATES[specs[path].kind], state) for path, state in states.items()), *seen]
        self._copy_rows = _copies(parts, beams)
        self.lengths = torch.zeros_like(beams.tokens)
        self.rules = torch.zeros(MAX_STEPS, 5, device=device)
        self.index = torch.zeros(1, dtype=torch.int64, device=device)
        """Of the step within `rules`, `chosen` and `parents`."""
        self.chosen, self.parents = (
            torch.zeros(MAX_STEPS, *beams.state.row.shape, dtype=torch.int64, device=device) for _ in range(2)
        )

    def begin(self, lengths: Tensor, rules: Sequence[Sequence[float]]) -> None:
        """Set what the next steps start from: lengths `[R]`, tokens that the states hold; a rule for each step."""
        self.lengths.copy_(lengths)
        self.rules[: len(rules)].copy_(torch.tensor(rules), non_blocking=True)
        self.index.zero_()

    def step(self) -> None:
        """One token of each beam. Where every prompt is done it changes no state."""
        beams = self.beams
        is_active = beams.tokens >= 0
        position = torch.where(is_active, self.lengths, -1)[:, None]
        logits = self.run(beams.tokens.clamp(min=0)[:, None], position, self.lengths, self.states)
        self.lengths.add_(is_active)
        rule = self.rules.index_select(0, self.index)[0]
        beams.advance(logits, self.lengths, rule, banned=torch.where(rule[4] > 0, -1, beams.ends))
        self._copy_rows(source=beams.source, first=beams.first, length=self.lengths)
        beams.mark()
        self.chosen.index_copy_(0, self.index, beams.chosen[None])
        self.parents.index_copy_(0, self.index, beams.parent[None])
        self.index.add_(1).clamp_(max=MAX_STEPS - 1)

    def read(self, steps: int) -> list[Record]:
        """What the steps since `begin` chose: the one time that the host waits."""
        chosen, parents = (
            cast("list[list[list[int]]]", x[:steps].tolist())  # pyright: ignore[reportUnknownMemberType]
            for x in (self.chosen, self.parents)
        )
        return list(zip(chosen, parents, strict=True))


def _copies(parts: list[Part], beams: Beams) -> Callable[..., None]:
    """`copy_rows` of these buffers, by a kernel where the beams have kernels."""
    if not beams.has_kernels:
        return partial(copy_rows, parts)
    return cast("Callable[..., None]", resolve("cache.triton_rows:RowCopies")(parts, beams.tokens.device))
