"""From logits to tokens: repetition penalty, temperature, top-k, top-p, min-p, in that order and as transformers
computes them, in the numbers of `kernels/sampling/reference.py`: machine code and a GPU draw the same tokens.

A row's uniform number follows from the seed, the row and how many tokens it has drawn: not from the other rows, nor
from where the ones before were drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ..kernels.sampling.reference import least_mass, masses, random_word, removable, share_of
from ..specs.diagnostics import Diagnostic, LlmcError, fail


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen. `temperature` 0: the most likely one; top_k 0, top_p 1, min_p 0, penalty 1: off."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        checks = (
            ("temperature", self.temperature, 0 <= self.temperature < math.inf, "a number from 0"),
            ("top_k", self.top_k, _is_int(self.top_k) and self.top_k >= 0, "an integer from 0 (0: off)"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", self.min_p, 0 <= self.min_p <= 1, "from 0 to 1"),
            ("repetition_penalty", self.repetition_penalty, 0 < self.repetition_penalty < math.inf, "a number above 0"),
            ("seed", self.seed, _is_int(self.seed) and 0 <= self.seed < 2**63, "an integer from 0 to 2^63 - 1"),
        )
        problems = [
            f"{name} is {value}; expected {expected}" for name, value, is_right, expected in checks if not is_right
        ]
        if problems:
            raise LlmcError([Diagnostic(code="E0855", message=problem) for problem in problems])

    @property
    def is_greedy(self) -> bool:
        return self.temperature < torch.finfo(torch.float32).tiny

    @property
    def takes_likeliest(self) -> bool:
        """Whether the next token is the one with the largest logit, whatever came before."""
        return self.is_greedy and self.repetition_penalty == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """How the rows of a batch go on: prompt and new tokens of each, and how many of them are new."""

    sampling: Sampling
    history: Sequence[Sequence[int]]
    generated: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One token a row; `logprobs` (natural, of the model's own logits, before any filter) where they were asked for."""

    tokens: list[int]
    logprobs: list[float] | None


class Sampler:
    """Draws the next token of each row of a batch."""

    def __init__(self, sampling: Sampling, vocab_size: int) -> None:
        self.sampling = sampling
        self.vocab_size = vocab_size
        self._drawn: dict[int, int] = {}

    def next(
        self,
        logits: Tensor,
        history: Sequence[Sequence[int]],
        *,
        rows: Sequence[int] | None = None,
        steps: Sequence[int] | None = None,
        wants_logprobs: bool = False,
    ) -> Drawn:
        """Tokens for logits [B, V], any float dtype. `history`: prompt and new tokens of each row, for the penalty.
        `rows` names the rows of a batch that others have left; `steps` how many tokens each has drawn (default: here).
        Raises E0856 for NaN, +inf or no finite logit."""
        if logits.dim() != 2 or logits.shape[1] != self.vocab_size or len(history) != logits.shape[0]:
            raise ValueError(f"logits {list(logits.shape)}, {len(history)} histories, vocabulary {self.vocab_size}")
        rows = range(logits.shape[0]) if rows is None else rows
        logits = logits.detach().float()
        require_served(logits, rows)
        scores = penalise_repetition(logits, history, self.sampling.repetition_penalty)
        if self.sampling.is_greedy:
            tokens = _ints(scores.argmax(dim=-1))
        else:
            tokens = self._draw(filter_logits(scores, self.sampling), rows, steps)
        if not wants_logprobs:
            return Drawn(tokens=tokens, logprobs=None)
        picked = torch.tensor(tokens, device=logits.device)[:, None]
        return Drawn(tokens=tokens, logprobs=_floats(logits.log_softmax(dim=-1).gather(1, picked)[:, 0]))

    def _draw(self, scores: Tensor, rows: Sequence[int], steps: Sequence[int] | None) -> list[int]:
        """Inverse of the cumulative distribution at one uniform number a row."""
        if steps is None:
            steps = [self._drawn.get(row, 0) for row in rows]
            self._drawn |= {row: step + 1 for row, step in zip(rows, steps, strict=True)}
        words = [random_word(mix(self.sampling.seed, row), step) for row, step in zip(rows, steps, strict=True)]
        mass = masses(scores).cumsum(dim=-1)  # [B, V]
        point = share_of(mass[:, -1:], torch.tensor(words, device=mass.device)[:, None])
        return _ints(torch.searchsorted(mass, point, right=True)[:, 0])


def require_served(logits: Tensor, rows: Sequence[int]) -> None:
    """E0856 for a row whose largest logit is not a finite number: NaN must never become text."""
    is_bad = ~torch.isfinite(logits.amax(dim=-1))
    if not is_bad.any():
        return
    bad = _ints(is_bad.nonzero()[:, 0])
    row = logits[bad[0]]
    raise fail(
        "E0856",
        f"the logits of row {rows[bad[0]]} hold {int(row.isnan().sum())} NaN and {int(row.isinf().sum())} infinite "
        f"values of {row.numel()}; the request is stopped ({len(bad)} of {logits.shape[0]} rows)",
        help="try --dtype float32, and look for the first wrong node with: llmc verify",
    )


def penalise_repetition(logits: Tensor, history: Sequence[Sequence[int]], penalty: float) -> Tensor:
    """Tokens of the history: negative logits times `penalty`, positive ones divided by it (Keskar et al. 2019)."""
    if penalty == 1:
        return logits
    scores = logits.clone()
    for row, tokens in enumerate(history):
        seen = torch.tensor(sorted({token for token in tokens if 0 <= token < logits.shape[1]}), dtype=torch.long)
        seen = seen.to(logits.device)
        values, factor = scores[row, seen], _single(penalty, scores)
        scores[row, seen] = torch.where(values < 0, values * factor, values / factor)
    return scores


def filter_logits(scores: Tensor, sampling: Sampling) -> Tensor:
    """Scores [B, V] over the temperature, with -inf for every token that top-k, top-p or min-p removes: what
    `kernels/sampling/reference.py` keeps, without its work for filters that are off."""
    scores = (scores - scores.amax(dim=-1, keepdim=True)) / _single(sampling.temperature, scores)
    if 0 < sampling.top_k < scores.shape[1]:
        kth = scores.topk(sampling.top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < kth, -math.inf)
    if sampling.top_p < 1 and (top_p := _single(sampling.top_p, scores)) < 1:
        ordered, order = scores.sort(dim=-1, stable=True)
        mass = masses(ordered).cumsum(dim=-1)
        removed = mass <= removable(mass[:, -1:], top_p)
        scores = scores.masked_fill(torch.empty_like(removed).scatter_(1, order, removed), -math.inf)
    if sampling.min_p > 0:
        least = least_mass(_single(sampling.min_p, scores))
        scores = scores.masked_fill(masses(scores) < least, -math.inf)
    return scores


def _single(value: float, beside: Tensor) -> Tensor:
    """The float32 next to a setting, which is what kernels read."""
    return torch.tensor(min(value, torch.finfo(torch.float32).max), dtype=torch.float32, device=beside.device)


def top_logprobs(logits: Tensor, k: int) -> list[list[tuple[int, float]]]:
    """The k most likely tokens of each row of logits [B, V] with their natural log-probabilities; ties: lowest id."""
    logprobs = logits.detach().float().log_softmax(dim=-1)
    values, ids = logprobs.sort(dim=-1, descending=True, stable=True)
    rows = zip(ids[:, :k], values[:, :k], strict=True)
    return [list(zip(_ints(row_ids), _floats(row_values), strict=True)) for row_ids, row_values in rows]


def _ints(vector: Tensor) -> list[int]:
    return cast("list[int]", vector.tolist())  # pyright: ignore[reportUnknownMemberType]


def _floats(vector: Tensor) -> list[float]:
    return cast("list[float]", vector.tolist())  # pyright: ignore[reportUnknownMemberType]


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def mix(seed: int, row: int) -> int:
    """A 63-bit seed in which neighbouring seeds and rows share nothing (SplitMix64's finaliser; Steele et al. 2014)."""
    mask = 2**64 - 1
    state = (seed * 0x9E3779B97F4A7C15 + row * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & mask
    for multiplier in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):
        state = ((state ^ (state >> 30)) * multiplier) & mask
        state ^= state >> 27
    return (state ^ (state >> 31)) >> 1
