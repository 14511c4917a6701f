"""Masked diffusion: all new tokens begin as masks, and each pass over the text keeps those the model is surest of.

The others are masked again and guessed anew, with more of the text to go by (Nie et al. 2025, LLaDA, low-confidence
remasking). Blocks are finished one after another, from the left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

import torch
from torch import Tensor

from ..specs.diagnostics import fail
from ..specs.source import Span
from .sampling import Sampler, Sampling, top_logprobs

if TYPE_CHECKING:
    from .model import LanguageModel

TokenLogprobs: TypeAlias = list[tuple[int, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmasking:
    """`steps`: passes over all of the new tokens, at most one a token. `block_size`: tokens that are unmasked together;
    earlier blocks are finished first. None: one pass a token; a single block."""

    mask_token_id: int
    steps: int | None = None
    block_size: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("block_size", self.block_size)):
            if value is not None and value < 1:
                raise fail("E0855", f"{name} is {value}; expected at least 1")

    def passes(self, num_new: int) -> Iterator[tuple[int, int, list[int]]]:
        """For each block: its first token, the one after its last, and how many tokens each of its passes keeps."""
        steps = min(self.steps or num_new, num_new)
        size = min(self.block_size or num_new, num_new)
        for start in range(0, num_new, size):
            end = min(start + size, num_new)
            count = max(1, steps * end // num_new - steps * start // num_new)
            yield start, end, [share(end - start, count, step) for step in range(count)]


def share(total: int, parts: int, part: int) -> int:
    """How many of `total` fall to one of `parts` that are as equal as can be."""
    return total * (part + 1) // parts - total * part // parts


def unmasking_of(model: LanguageModel, *, steps: int | None, block_size: int | None) -> Unmasking | None:
    """What `generation: {unmasking: …}` of the model's spec says, with the request's own values; None without it.

    Raises E0807 for values that such a model alone has a use for, E0810 for a mask outside of the vocabulary.
    """
    said = cast("dict[str, object] | None", model.facts.generation.get("unmasking"))
    if said is None:
        if steps is not None or block_size is not None:
            raise fail(
                "E0807", f"{model.facts.name} writes from left to right: steps and block_size mean nothing to it"
            )
        return None
    mask, size = said["mask_token_id"], model.facts.vocab_size
    if not isinstance(mask, int) or mask < 0 or (size is not None and mask >= size):
        raise fail("E0810", f"the mask token {mask} is no id of the vocabulary of {size}", span=_said_at(model))
    return Unmasking(
        mask_token_id=mask,
        steps=steps if steps is not None else cast("int | None", said.get("steps")),
        block_size=block_size if block_size is not None else cast("int | None", said.get("block_size")),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The tokens of one row's block, which no later pass changes; `logprobs` where they were asked for."""

    row: int
    tokens: list[int]
    logprobs: list[TokenLogprobs] | None


def _said_at(model: LanguageModel) -> Span | None:
    """Where the spec has the section."""
    generation = model.program.spec.generation
    section = None if generation is None else generation.get("unmasking")
    return None if section is None else section.span


def unmask(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    num_new: int,
    how: Unmasking,
    sampling: Sampling,
    *,
    is_open: Callable[[int], bool],
    num_logprobs: int | None = None,
) -> Iterator[Settled]:
    """Continue each prompt by `num_new` tokens, block by block; rows that are no longer open are left out.

    With a temperature, a token is drawn and then kept or not by its probability. The mask is never drawn.
    Raises E0856 for logits that are no numbers.
    """
    canvas = _Canvas(model, prompts, num_new, how, sampling, num_logprobs)
    for start, end, counts in how.passes(num_new):
        rows = [row for row in range(len(prompts)) if is_open(row)]
        if not rows:
            return
        for count in counts:
            canvas.keep_surest(rows, start, end, count)
        for row in rows:
            yield canvas.settled(row, start, end)


class _Canvas:
    """Prompts and the new tokens behind them, as far as they are known."""

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        num_new: int,
        how: Unmasking,
        sampling: Sampling,
        num_logprobs: int | None,
    ) -> None:
        self.model, self.mask, self.sampling, self.num_logprobs = model, how.mask_token_id, sampling, num_logprobs
        self.prompts = prompts
        self.new: list[list[int | None]] = [[None] * num_new for _ in prompts]
        self.logprobs: list[list[TokenLogprobs]] = [[[]] * num_new for _ in prompts]
        self.sampler: Sampler | None = None

    def keep_surest(self, rows: Sequence[int], start: int, end: int, count: int) -> None:
        """One pass: guess the block's masked tokens of each row, and keep `count` of them."""
        logits = self._read(rows)
        for index, row in enumerate(rows):
            at = [place for place in range(start, end) if self.new[row][place] is None]
            offset = len(self.prompts[row])
            seen = logits[index, [offset + place for place in at]].float()  # [masked tokens, V]
            seen[:, self.mask] = -torch.inf
            self._keep(row, at, seen, count)

    def _keep(self, row: int, at: Sequence[int], logits: Tensor, count: int) -> None:
        if self.sampler is None:
            self.sampler = Sampler(self.sampling, logits.shape[-1])
        history = [*self.prompts[row], *(token for token in self.new[row] if token is not None)]
        seeds = [row * len(self.new[row]) + place for place in at]
        drawn = self.sampler.next(logits, [history] * len(at), rows=seeds, wants_logprobs=True)
        assert drawn.logprobs is not None
        surest = sorted(range(len(at)), key=drawn.logprobs.__getitem__, reverse=True)[:count]
        for index in surest:
            self.new[row][at[index]] = drawn.tokens[index]
            if self.num_logprobs is not None:
                likeliest = top_logprobs(logits[index][None], self.num_logprobs)[0]
                self.logprobs[row][at[index]] = [(drawn.tokens[index], drawn.logprobs[index]), *likeliest]

    def _read(self, rows: Sequence[int]) -> Tensor:
        """Logits `[rows, T, V]` of the texts, shorter ones padded on the right."""
        texts = [
            [*self.prompts[row], *(self.mask if token is None else token for token in self.new[row])] for row in rows
        ]
        longest, device = max(map(len, texts)), self.model.device
        tokens = torch.tensor([text + [self.mask] * (longest - len(text)) for text in texts], device=device)
        lengths = torch.tensor([len(text) for text in texts], device=device)
        padding = None if min(map(len, texts)) == longest else torch.arange(longest, device=device) < lengths[:, None]
        with torch.inference_mode():
            found = self.model(tokens, attention_mask=padding)
        return found if isinstance(found, Tensor) else cast("Tensor", found["logits"])

    def settled(self, row: int, start: int, end: int) -> Settled:
        """A finished block of a row."""
        tokens = [token for token in self.new[row][start:end] if token is not None]
        assert len(tokens) == end - start
        return Settled(
            row=row, tokens=tokens, logprobs=None if self.num_logprobs is None else self.logprobs[row][start:end]
        )
