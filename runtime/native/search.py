"""A beam search in machine code: many steps in one call, as `llmc_beams` of `kernels/sampling/beams.h` has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from ...kernels.cache.rows import Part, described
from ..beams import Beams, Record
from .abi import BeamsStruct

RunSteps = Callable[[Tensor, Tensor, int, BeamsStruct], int]
"""Tokens `[R]` and lengths `[R]`, which are brought up to date, steps and beams -> the steps that were done."""


class NativeSearch:
    """The struct of a search, and the memory that it points to. parts: buffers of the states that are copied."""

    def __init__(self, run: RunSteps, beams: Beams, parts: list[Part]) -> None:
        self.beams, self._run = beams, run
        rows, count = len(beams.tokens), beams.settings.num_beams
        if beams.seen is not None:
            parts = [*parts, (beams.seen, True)]
        table, unit = described(parts) if parts else ([], 1)
        self._memory = {
            "parts": torch.tensor(table, dtype=torch.int64),
            "value": torch.empty(rows, beams.width),
            "token": torch.empty(rows, beams.width, dtype=torch.int64),
            "pairs": torch.empty(count, count, dtype=torch.int64),
            "is_taken": torch.empty(count * beams.width, dtype=torch.uint8),
        }
        outputs = {"next": beams.tokens, "source": beams.source, "first": beams.first}
        found = {"ends": beams.ends, **beams.state._asdict(), **outputs, **self._memory}
        self._struct = BeamsStruct(
            prompts=rows // count,
            beams=count,
            width=beams.width,
            ends_count=len(beams.ends),
            seen=None if beams.seen is None else beams.seen.data_ptr(),
            parts_count=len(table),
            unit=unit,
            **{name: tensor.data_ptr() for name, tensor in found.items()},
        )

    def search(self, lengths: Tensor, rules: Sequence[Sequence[float]]) -> tuple[list[Record], Tensor]:
        """As `Searching.search`; it may stop earlier, when all prompts are done."""
        shape = (len(rules), *self.beams.state.row.shape)
        chosen, parent = (torch.zeros(shape, dtype=torch.int64) for _ in range(2))
        given, held, struct = torch.tensor(rules, dtype=torch.float32), lengths.clone(), self._struct
        struct.rules, struct.chosen, struct.parent = given.data_ptr(), chosen.data_ptr(), parent.data_ptr()
        struct.step, struct.repetition_penalty = int(self.beams.step), float(self.beams.penalty)
        done = self._run(self.beams.tokens.clamp(min=0), held, len(rules), struct)
        self.beams.step.fill_(struct.step)
        chosen_rows, parent_rows = (
            cast("list[list[list[int]]]", x[:done].tolist())  # pyright: ignore[reportUnknownMemberType]
            for x in (chosen, parent)
        )
        return list(zip(chosen_rows, parent_rows, strict=True)), held
