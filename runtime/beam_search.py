"""Beam search over a batch: prompts are read once, then each becomes as many rows as it has beams."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from ..specs.diagnostics import fail
from .batch import Batch, Generation, pad
from .beam_settings import BeamSettings
from .beams import Beams, Record, width_of
from .cache import Cache
from .execute import Executor, Searching
from .model import LanguageModel
from .next_logits import next_logits
from .options import Options, beams_of, sampling_of
from .sampling import require_served

FIRST_BURST, MOST_IN_BURST = 16, 256
"""Steps that are made at once."""


class BeamSearch(Batch):
    """One batch of prompts, searched."""

    def __init__(self, model: LanguageModel, prompts: list[list[int]], options: Options) -> None:
        """Raises E0807 where the model or another option leaves no room for a search, E0862 for one too wide."""
        super().__init__(model, prompts, options)
        if self.unmasking is not None:
            raise fail("E0807", f"{model.facts.name} unmasks its tokens: there are no beams in that")
        self.settings: BeamSettings = beams_of(options)
        self.stops = tuple(dict.fromkeys(self.ends))
        size, width = model.facts.vocab_size, width_of(self.settings.num_beams, self.stops)
        if size is not None and width > size:
            what = f"{self.settings.num_beams} beams look at {width} tokens"
            raise fail("E0862", f"{what}, but the vocabulary has {size}", help="ask for fewer beams")
        self.settings.divisor(self.limit)

    def run(self) -> list[Generation]:
        """The best text of each prompt, which holds the others."""
        started = time.perf_counter()
        executor, count = self.model.executor(), len(self.prompts)
        longest = max(len(prompt) for prompt in self.prompts)
        rows, beams = executor.rows_for(count), self.settings.num_beams
        with (
            torch.inference_mode(),
            self.model.lease_cache(rows * beams, longest + self.limit, executor=executor) as cache,
        ):
            logits, burst = self._prefill(executor, cache, rows), self._searching(executor, cache, rows)
            search = self._begin(cache, logits, None if burst is None else burst.beams)
            records = [self._advance(search, cache, logits.repeat_interleave(beams, 0), 0)]
            first = time.perf_counter() - started
            while bool(search.state.is_open.any()):
                if burst is not None:
                    records += self._burst(burst, cache, len(records))
                else:
                    logits = self._next_logits(executor, cache, search)
                    records.append(self._advance(search, cache, logits, len(records)))
        return self._results(search, records, first, started)

    def _prefill(self, executor: Executor, cache: Cache, rows: int) -> Tensor:
        """Logits `[rows, V]` after the prompts, whose states every row of the cache then holds."""
        model, part = self.model, cache.part(rows)
        tokens, mask = pad(self.prompts, model.device, rows)
        values = {**model.default_inputs(tokens), model.facts.inputs[0].name: tokens, **self.once(rows)}
        logits = next_logits(model, values, part, mask, executor=executor)
        cache.spread(part)
        return logits

    def _may_end(self, drawn: int) -> bool:
        """Whether a text may end with the token after so many."""
        return drawn >= (self.options.min_new_tokens or 0)

    @property
    def _penalty(self) -> float:
        return sampling_of(self.options).repetition_penalty

    def _searching(self, executor: Executor, cache: Cache, rows: int) -> Searching | None:
        return executor.searching(
            cache.states,
            cache.specs,
            self.settings,
            prompts=rows,
            ends=self.stops,
            counts=self._penalty != 1,
            kept=cache.kept,
        )

    def _begin(self, cache: Cache, logits: Tensor, given: Beams | None) -> Beams:
        """Beams that stand before the first token: those that were given, or new ones."""
        search = given or Beams(
            self.settings,
            prompts=len(logits),
            vocab_size=logits.shape[-1],
            ends=self.stops,
            device=logits.device,
            counts=self._penalty != 1,
        )
        search.begin(cache.lengths[:: self.settings.num_beams], self.prompts, ends=self.stops, penalty=self._penalty)
        return search

    def _burst(self, burst: Searching, cache: Cache, drawn: int) -> list[Record]:
        """Several steps without a look at each: as many as were made before, since the search may soon be over."""
        last = min(self.limit, drawn + min(MOST_IN_BURST, max(FIRST_BURST, drawn)))
        rules = [
            (*self.settings.rule(tokens, self.limit), float(self._may_end(tokens - 1)))
            for tokens in range(drawn + 1, last + 1)
        ]
        records, lengths = burst.search(cache.lengths, rules)
        cache.advance(lengths - cache.lengths)
        if bool(burst.beams.state.is_broken.any()):
            raise fail("E0856", "a search met logits that are not finite", help="try --dtype float32")
        return records

    def _advance(self, search: Beams, cache: Cache, logits: Tensor, drawn: int) -> Record:
        """One step, after which the rows of the cache have gone on from those that they follow."""
        rule = torch.tensor(self.settings.rule(drawn + 1, self.limit), device=logits.device)
        search.advance(logits, cache.lengths, rule, banned=None if self._may_end(drawn) else search.ends)
        if bool(search.state.is_broken.any()):
            self._require_served(logits)
        cache.reorder(_whole(search.source), _whole(search.first))
        if search.seen is not None:
            search.seen.copy_(search.seen[search.source])
        search.mark()
        return search.record()

    def _next_logits(self, executor: Executor, cache: Cache, search: Beams) -> Tensor:
        tokens = search.tokens[:, None]
        mask = None if bool((tokens >= 0).all()) else tokens >= 0
        fed = tokens.clamp(min=0)
        values = {**self.model.default_inputs(fed), self.model.facts.inputs[0].name: fed}
        return next_logits(self.model, values, cache, mask, executor=executor)

    @staticmethod
    def _require_served(logits: Tensor) -> None:
        require_served(logits, range(len(logits)))
        raise fail("E0856", "a search met logits that are not finite", help="try --dtype float32")

    def _results(self, search: Beams, records: Sequence[Record], first: float, started: float) -> list[Generation]:
        total, wanted = time.perf_counter() - started, self.settings.num_return_sequences
        best: list[Generation] = []
        for prompt, texts in enumerate(search.texts(records)[: len(self.prompts)]):
            found = [self._generation(prompt, tokens, score) for tokens, score in texts[:wanted]]
            for one in found:
                one.first_token_seconds, one.total_seconds = first, total
            found[0].others = found[1:]
            best.append(found[0])
        return best

    def _generation(self, prompt: int, tokens: list[int], score: float) -> Generation:
        """A text as if its tokens had come one by one."""
        watch, made = self.new_watch(), self.new_row(prompt)
        for token in tokens:
            piece = watch.push(token)
            made.text = None if made.text is None else made.text + piece
        made.tokens, made.score = tokens, score
        made.finish_reason = watch.finish_reason or "length"
        return made


def _whole(x: Tensor) -> list[int]:
    """The numbers of a vector."""
    return cast("list[int]", x.tolist())  # pyright: ignore[reportUnknownMemberType]
