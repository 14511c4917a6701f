"""Generation: prompts in, tokens and text out, through the fused Program."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..specs.diagnostics import fail
from .batch import Batch, pad
from .cache import Cache
from .execute import Executor
from .next_logits import next_logits
from .options import options_of, sampling_of
from .prompts import encode_prompt, several_prompts
from .sampling import Drawing, Drawn, Sampler, top_logprobs
from .unmasking import Unmasking, unmask

if TYPE_CHECKING:
    from .model import LanguageModel


def generate(model: LanguageModel, prompt: object, **options: object) -> object:
    """A `Generation` for one prompt, a list for a list; with `stream=True` an iterator of text pieces (one prompt
    only). A model with an encoder reads the prompt there, and its decoder begins at its start token. A masked-diffusion
    model unmasks its new tokens, block by block: `steps` and `block_size` are of `unmasking.Unmasking`. With
    `num_beams` above 1 the best text is searched for (`beam_settings.BeamSettings`), and `others` of it are the next.

    Options are the fields of `Options`. Raises E0801 where prompt and new tokens exceed the context, E0805 for a prompt
    that is empty or no prompt, E0806 for text without a tokenizer, E0807 for options that do not go together, E0855 for
    impossible sampling values, E0862 for an impossible search.
    """
    chosen = options_of(model, options)
    several = several_prompts(prompt)
    is_batch = several is not None
    prompts = [encode_prompt(model, one, add_special=chosen.add_special) for one in (several or [prompt])]
    if chosen.num_beams > 1:
        from .beam_search import BeamSearch

        found = BeamSearch(model, prompts, chosen).run()
        return found if is_batch else found[0]
    run = _Run(model, prompts, chosen)
    if chosen.stream:
        if is_batch:
            raise fail("E0807", "stream=True takes a single prompt", help="stream each prompt on its own")
        return Stream(run)
    for _ in run.stream():
        pass
    return run.rows if is_batch else run.rows[0]


class Stream(Iterator[str]):
    """Pieces of text as they become safe to show. `generation` grows with them and is complete at the end."""

    def __init__(self, run: _Run) -> None:
        self.generation = run.rows[0]
        self._pieces = run.stream()

    def __next__(self) -> str:
        return next(self._pieces)


class _Run(Batch):
    """One batch of prompts on its way."""

    def stream(self) -> Iterator[str]:
        """Run to the end, giving the first row's text as it becomes safe to show."""
        model = self.model
        started = time.perf_counter()
        if self.unmasking is not None:
            yield from self._unmask(self.unmasking, started)
            return
        longest = max(len(prompt) for prompt in self.prompts)
        executor = model.executor()
        with model.lease_cache(executor.rows_for(len(self.prompts)), longest + self.limit, executor=executor) as cache:
            yield from self._continue(executor, cache, started)

    def _continue(self, executor: Executor, cache: Cache, started: float) -> Iterator[str]:
        model, options = self.model, self.options
        sampler: Sampler | None = None
        is_simple = executor.can_sample or sampling_of(options).takes_likeliest
        can_burst = executor.can_decode and is_simple and options.logprobs is None
        tokens, mask = pad(self.prompts, model.device, cache.batch_size)
        name = model.facts.inputs[0].name
        once = self.once(cache.batch_size)
        while True:
            with torch.inference_mode():
                values = {**model.default_inputs(tokens), name: tokens, **once}
                logits = next_logits(model, values, cache, mask, executor=executor)
            if sampler is None:
                sampler = Sampler(sampling_of(options), logits.shape[-1])
            active = [i for i, watch in enumerate(self.watches) if watch.finish_reason is None]
            history = [self.prompts[i] + self.rows[i].tokens for i in active]
            steps = [len(self.rows[i].tokens) for i in active]
            wants_logprobs = options.logprobs is not None
            waits = min(steps) < (options.min_new_tokens or 0)
            chosen = None if waits or wants_logprobs else self._choose(executor, logits)
            if chosen is not None:
                drawn = Drawn(tokens=[chosen[row] for row in active], logprobs=None)
            else:
                scores = self._without_ends(logits, steps, active) if waits else logits[active]
                drawn = sampler.next(scores, history, rows=active, steps=steps, wants_logprobs=wants_logprobs)
            for index, (row, token) in enumerate(zip(active, drawn.tokens, strict=True)):
                piece = self._accept(row, token, started)
                if drawn.logprobs is not None:
                    self._note_logprobs(row, token, drawn.logprobs[index], logits[row])
                if piece and row == 0:
                    yield piece
            if self._is_done():
                return
            if can_burst and not waits:
                yield from self._burst(executor, cache, started)
                if self._is_done():
                    return
            tokens, mask = self._next_step(cache.batch_size)
            once = {}

    def _choose(self, executor: Executor, logits: Tensor) -> list[int] | None:
        """The next token of each row as the executor would draw it, -1 where the row has ended."""
        with torch.inference_mode():
            return executor.choose(logits, self._drawing(), [watch.finish_reason is None for watch in self.watches])

    def _unmask(self, how: Unmasking, started: float) -> Iterator[str]:
        blocks = unmask(
            self.model,
            self.prompts,
            self.limit,
            how,
            sampling_of(self.options),
            is_open=lambda row: self.watches[row].finish_reason is None,
            num_logprobs=self.options.logprobs,
        )
        for block in blocks:
            for index, token in enumerate(block.tokens):
                if self.watches[block.row].finish_reason is not None:
                    break
                piece = self._accept(block.row, token, started)
                kept = self.rows[block.row].logprobs
                if kept is not None and block.logprobs is not None:
                    kept.append(block.logprobs[index])
                if piece and block.row == 0:
                    yield piece

    def _without_ends(self, logits: Tensor, steps: Sequence[int], rows: Sequence[int]) -> Tensor:
        """The logits of these rows, in which those that have too few tokens cannot end."""
        scores, ends = logits[rows], [end for end in self.ends if 0 <= end < logits.shape[1]]
        is_short = torch.tensor(steps, device=logits.device) < (self.options.min_new_tokens or 0)
        scores[:, ends] = scores[:, ends].masked_fill(is_short[:, None], -math.inf)
        return scores

    def _is_done(self) -> bool:
        return all(watch.finish_reason is not None for watch in self.watches)

    def _burst(self, executor: Executor, cache: Cache, started: float) -> Iterator[str]:
        """As many tokens as may be decoded without looking at each; returns at the end, or before a step that fails."""
        steps = 1 if self.options.stream else FIRST_BURST if self.options.stop else MOST_IN_BURST
        while not self._is_done():
            left = self.limit - min(
                len(row.tokens) for row, w in zip(self.rows, self.watches, strict=True) if not w.finish_reason
            )
            last = [
                -1 if watch.finish_reason is not None else row.tokens[-1]
                for row, watch in zip(self.rows, self.watches, strict=True)
            ]
            last += [-1] * (cache.batch_size - len(last))
            before = time.perf_counter()
            with torch.inference_mode():
                drawn = executor.decode(
                    last,
                    cache.row_lengths(),
                    cache.states,
                    min(steps, left),
                    self.ends,
                    self._drawing(),
                    kept=cache.kept,
                )
            cache.advance(torch.tensor([len(tokens) for tokens in drawn], device=cache.lengths.device))
            for row, tokens in enumerate(drawn[: len(self.rows)]):
                for token in tokens[self._accept_plain(row, tokens, started) :]:
                    if self.watches[row].finish_reason is not None:
                        break
                    piece = self._accept(row, token, started)
                    if piece and row == 0:
                        yield piece
            if not any(drawn):
                return
            steps = _burst_length(steps, time.perf_counter() - before, self.options.stream)

    def _drawing(self) -> Drawing:
        return Drawing(
            sampling=sampling_of(self.options),
            history=[prompt + row.tokens for prompt, row in zip(self.prompts, self.rows, strict=True)],
            generated=[len(row.tokens) for row in self.rows],
        )

    def _accept(self, row: int, token: int, started: float) -> str:
        generation, watch = self.rows[row], self.watches[row]
        now = time.perf_counter() - started
        if not generation.tokens:
            generation.first_token_seconds = now
        generation.total_seconds = now
        generation.tokens.append(token)
        piece = watch.push(token)
        if generation.text is not None:
            generation.text += piece
        if watch.finish_reason is not None:
            generation.finish_reason = watch.finish_reason
        return piece

    def _accept_plain(self, row: int, tokens: Sequence[int], started: float) -> int:
        """Take as many of a burst's tokens as can be taken without a look at each."""
        generation, watch = self.rows[row], self.watches[row]
        taken = watch.push_plain(tokens)
        if taken:
            generation.tokens += tokens[:taken]
            generation.total_seconds = time.perf_counter() - started
            generation.finish_reason = watch.finish_reason or generation.finish_reason
        return taken

    def _note_logprobs(self, row: int, token: int, logprob: float, logits: Tensor) -> None:
        kept = self.rows[row].logprobs
        assert kept is not None
        kept.append([(token, logprob), *top_logprobs(logits[None], self.options.logprobs or 0)[0]])

    def _next_step(self, rows: int) -> tuple[Tensor, Tensor | None]:
        """The last token of each row; those that have finished and those beyond the prompts are padding."""
        device, spare = self.model.device, rows - len(self.rows)
        tokens = torch.tensor([[row.tokens[-1]] for row in self.rows] + [[0]] * spare, device=device)
        finished = [watch.finish_reason is not None for watch in self.watches] + [True] * spare
        if not any(finished):
            return tokens, None
        return tokens, torch.tensor([[not done] for done in finished], device=device)


BURST_SECONDS = 0.02
"""How long a reader of a stream may wait for several tokens at once."""
FIRST_BURST = 8
"""Tokens that are decoded at once at first, where a stop string may make the last of them vain."""
MOST_IN_BURST = 256
"""Tokens that are decoded at once where nobody waits for each."""


def _burst_length(steps: int, seconds: float, is_stream: bool) -> int:
    """How many tokens to decode next without looking at them, after `steps` took so long."""
    in_time = int(steps * BURST_SECONDS / max(seconds, 1e-6))
    return max(1, min(MOST_IN_BURST, in_time if is_stream else max(in_time, steps * 4)))
