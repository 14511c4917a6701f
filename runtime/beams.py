"""The beams of a batch of prompts: tensors that a step changes, and the texts that they become."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, cast

import torch
from torch import Tensor

from ..kernels.kernel import resolve
from ..kernels.sampling.beam_reference import NEVER, Advanced
from ..kernels.sampling.fields import AdvanceBeams, BeamState
from .beam_settings import BeamSettings

Record: TypeAlias = tuple[list[list[int]], list[list[int]]]
"""Of one step, by prompt and beam: the token, and the beam that it follows."""


class Beams:
    """`prompts` times `num_beams` rows of a batch. Nothing that a step does is read on the host.

    ends: ids that end a text; counts: a repetition penalty needs what each row has seen; has_kernels: a step runs the
    kernels of a GPU, wherever the tensors are; absent, where they are on one.
    """

    def __init__(
        self,
        settings: BeamSettings,
        *,
        prompts: int,
        vocab_size: int,
        ends: Sequence[int],
        device: torch.device,
        counts: bool,
        room: int | None = None,
        has_kernels: bool | None = None,
    ) -> None:
        """room: ids of `ends` that there is place for; the candidates of a step follow from the ids that there are."""
        self.settings, beams, rows = settings, settings.num_beams, prompts * settings.num_beams
        self.width = width_of(beams, ends)

        def whole(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        self.tokens = whole(rows) - 1
        """What each row reads next; -1 where its prompt is done."""
        self.source, self.first = (whole(rows) for _ in range(2))
        self.chosen, self.parent = (whole(prompts, beams) for _ in range(2))
        self.step = whole(1)
        self.state = BeamState(
            score=torch.zeros(prompts, beams, device=device),
            row=whole(prompts, beams),
            common=whole(prompts, beams, beams),
            kept_score=torch.zeros(prompts, beams, device=device),
            kept_step=whole(prompts, beams),
            kept_parent=whole(prompts, beams),
            kept_token=whole(prompts, beams),
            is_open=torch.zeros(prompts, dtype=torch.bool, device=device),
            is_broken=torch.zeros(prompts, dtype=torch.bool, device=device),
        )
        self.ends = whole(max(1, len(ends) if room is None else room))
        self.penalty = torch.ones(1, device=device)
        self.seen = torch.zeros(rows, vocab_size, dtype=torch.uint8, device=device) if counts else None
        self.has_kernels = device.type == "cuda" if has_kernels is None else has_kernels
        where = "triton_beams" if self.has_kernels else "beam_reference"
        self._best = cast("Callable[..., tuple[Tensor, Tensor]]", resolve(f"sampling.{where}:best_continuations"))
        self._advance = cast(
            "Callable[[AdvanceBeams, BeamState], Advanced]", resolve(f"sampling.{where}:advance_beams")
        )

    def begin(self, lengths: Tensor, history: Sequence[Sequence[int]], *, ends: Sequence[int], penalty: float) -> None:
        """Start from prompts: lengths `[P]` are the tokens that their states hold. Those without a history are none."""
        device, beams, state = self.tokens.device, self.settings.num_beams, self.state
        stops = torch.tensor([*ends, *([-1] * (len(self.ends) - len(ends)))], dtype=torch.int64)
        self.ends.copy_(stops.to(device))
        self.penalty.fill_(penalty)
        state.score.copy_(torch.where(torch.arange(beams, device=device) > 0, NEVER, 0.0).expand_as(state.score))
        state.row.copy_(torch.arange(beams, device=device).expand_as(state.row))
        state.common.copy_(lengths[:, None, None].expand_as(state.common))
        state.kept_score.fill_(NEVER)
        for buffer in (state.kept_step, state.kept_parent, state.kept_token, state.is_broken, self.step):
            buffer.zero_()
        state.is_open.copy_((torch.arange(len(state.is_open)) < len(history)).to(device))
        if self.seen is not None:
            self.seen.zero_()
            for prompt, tokens in enumerate(history):
                ids = torch.tensor(sorted(set(tokens)), dtype=torch.int64, device=device)
                self.seen[prompt * beams : (prompt + 1) * beams, ids] = 1

    def advance(self, logits: Tensor, length: Tensor, rule: Tensor, *, banned: Tensor | None = None) -> None:
        """One step: logits `[R, V]` after the last tokens, length `[R]` tokens that the states hold now; rule and
        banned as of `kernels/sampling/beam_reference.py`. Then rows have to go on from `source`, from `first` on."""
        score = self.state.score
        scores = torch.empty_like(score).scatter_(1, self.state.row, score)
        value, token = self._best(
            logits=logits, score=scores.flatten(), width=self.width, repetition_penalty=self.penalty, seen=self.seen,
            banned=banned,
        )  # fmt: skip
        given = AdvanceBeams(value=value, token=token, rule=rule, ends=self.ends, length=length, step=self.step)
        found = self._advance(given, self.state)
        for buffer, new in zip((self.tokens, self.source, self.first, self.chosen, self.parent), found, strict=True):
            buffer.copy_(new)
        self.step.add_(1)

    def mark(self) -> None:
        """Count the tokens that the rows read next as seen; their rows of `seen` have gone on from others before."""
        if self.seen is not None:
            self.seen.scatter_(1, self.tokens.clamp(min=0)[:, None], 1)

    def record(self) -> Record:
        """What the last step chose."""
        return _whole(self.chosen), _whole(self.parent)

    def texts(self, records: Sequence[Record]) -> list[list[tuple[list[int], float]]]:
        """Of each prompt the texts that have ended, the best first, with their scores. records: of every step."""
        state = self.state
        steps, parents, tokens = (_whole(x) for x in (state.kept_step, state.kept_parent, state.kept_token))
        scores = cast("list[list[float]]", state.kept_score.tolist())  # pyright: ignore[reportUnknownMemberType]
        return [
            [
                ([*_path(records, prompt, step - 1, parent), token], score)
                for step, parent, token, score in zip(*found, strict=True)
                if step > 0
            ]
            for prompt, found in enumerate(zip(steps, parents, tokens, scores, strict=True))
        ]


def width_of(num_beams: int, ends: Sequence[int]) -> int:
    """Continuations that are looked at, so that `num_beams` are left where the best ones end."""
    return max(2, 1 + len(ends)) * num_beams


def _path(records: Sequence[Record], prompt: int, tokens: int, beam: int) -> list[int]:
    """The text that a beam had after so many tokens."""
    found: list[int] = []
    for chosen, parents in reversed(records[:tokens]):
        found.append(chosen[prompt][beam])
        beam = parents[prompt][beam]
    return found[::-1]


def _whole(x: Tensor) -> list[list[int]]:
    return cast("list[list[int]]", x.tolist())  # pyright: ignore[reportUnknownMemberType]
