"""Sampling and beams (G7): what a step takes beside the model, over a vocabulary of 128k, beside sorting in torch.

The floor is one look at the logits; what counts is the share of a decoded token, which the table of models shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from ....kernels.cache.rows import Part, copy_rows
from ....kernels.cache.triton_rows import RowCopies
from ....kernels.sampling import reference
from ....kernels.sampling.triton_sample import sample
from ....runtime.beam_settings import BeamSettings
from ....runtime.beams import Beams
from .case import Builder, Case, Sizes

TEMPERATURE, TOP_K, TOP_P = 0.8, 50, 0.9


def cases(sizes: Sizes) -> Iterator[Builder]:
    """All measurements of the family."""
    for batch in (1, sizes.pick(8, 2)):
        yield partial(_sampling, sizes, batch)
    yield partial(_beams, sizes)
    yield partial(_rows, sizes)


def settings(batch: int, device: torch.device) -> dict[str, Tensor]:
    """All that `sample` takes beside logits, the same in every row."""

    def full(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.full((batch,), value, dtype=dtype, device=device)

    return {
        "temperature": full(TEMPERATURE), "top_k": full(TOP_K, torch.int32), "top_p": full(TOP_P), "min_p": full(0.0),
        "repetition_penalty": full(1.0), "presence_penalty": full(0.0), "frequency_penalty": full(0.0),
        "seed": full(7, torch.int64), "step": full(3, torch.int64),
    }  # fmt: skip


def _sampling(sizes: Sizes, batch: int) -> Case:
    logits = torch.randn(batch, sizes.pick(128256, 200), device=sizes.device) * 3
    given = settings(batch, sizes.device)

    def by_sorting() -> Tensor:
        scores, ids = (logits / TEMPERATURE).sort(dim=-1, descending=True)
        scores[:, TOP_K:] = -torch.inf
        share = scores.softmax(-1)
        share = share.masked_fill(share.cumsum(-1) - share > TOP_P, 0.0)
        return ids.gather(-1, share.multinomial(1))

    return Case(
        target="G7", name=f"sampling, {logits.shape[1]} tokens, {batch} rows", kernel="triton",
        ours=lambda: sample(logits=logits, **given), bytes=float(logits.nbytes), flops=float(4 * logits.numel()),
        bound="bandwidth", goal="<= 2 % of a token",
        rivals={"torch, by definition": lambda: reference.sample(logits=logits, **given), "torch, sorted": by_sorting},
    )  # fmt: skip


def _beams(sizes: Sizes) -> Case:
    """What a step of four beams takes beside the model: their best continuations, and how the beams go on."""
    settings, device = BeamSettings(num_beams=4), sizes.device
    logits = torch.randn(4, sizes.pick(128256, 200), device=device) * 3
    beams = Beams(
        settings, prompts=1, vocab_size=logits.shape[1], ends=[2], device=device, counts=False, has_kernels=True
    )
    length = torch.full((4,), 5, device=device)
    beams.begin(length[:1], [[1]], ends=[2], penalty=1.0)
    rule = torch.tensor(settings.rule(1, 9), device=device)

    def by_sorting() -> Tensor:
        scores = logits.log_softmax(-1) + beams.state.score.flatten()[:, None]
        return scores.flatten().sort(descending=True, stable=True).indices[:8]

    def step() -> Tensor:
        beams.advance(logits, length, rule)
        return beams.chosen

    return Case(
        target="G7", name=f"four beams, {logits.shape[1]} tokens", kernel="triton", ours=step,
        bytes=float(2 * logits.nbytes), flops=float(4 * logits.numel()), bound="bandwidth", goal="<= 2 % of a token",
        rivals={"torch, sorted, the continuations alone": by_sorting}, compares=False,
    )  # fmt: skip


def _rows(sizes: Sizes) -> Case:
    """Four beams of an 8B Llama, four layers of it: two rows go on from others, in the last tokens."""
    beams, tokens, common = 4, sizes.pick(8192, 12), sizes.pick(8142, 9)
    buffers = [sizes.randn(beams, sizes.pick(8, 2), tokens, sizes.pick(128, 5)) for _ in range(8)]
    ours, theirs = ([(buffer.clone(), False) for buffer in buffers] for _ in range(2))
    moves = {
        name: torch.tensor(rows, device=sizes.device)
        for name, rows in (("source", (0, 0, 2, 2)), ("first", [common] * beams), ("length", [tokens] * beams))
    }
    copies = RowCopies(ours, sizes.device)

    def run(copy: Callable[..., None], parts: list[Part]) -> Tensor:
        copy(**moves)
        return parts[0][0]

    moved = 2 * 2 * (tokens - common) * sum(buffer.nbytes for buffer, _ in ours) / beams / tokens
    return Case(
        target="G7", name=f"two of four rows go on from others, {tokens - common} tokens of 8 buffers", kernel="triton",
        ours=lambda: run(copies, ours), bytes=moved, flops=0.0, bound="bandwidth", goal="a launch",
        rivals={"torch": lambda: run(partial(copy_rows, theirs), theirs)},
    )  # fmt: skip
