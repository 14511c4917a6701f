"""Beam search over a batch: prompts are read once, then each becomes as many rows as it has beams."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from ..specs.diagnostics import fail
from .batch import Batch, Generation, pad
from .beam_settings import BeamSettings
from .beams import Beams, Record, width_of
from .cache import Cache
from .execute import Executor
from .model import LanguageModel
from .options import Options, beams_of, sampling_of


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
            logits = self._prefill(executor, cache, rows)
            search = self._begin(cache, logits, rows)
            records = [self._advance(search, cache, logits.repeat_interleave(beams, 0), 0)]
            first = time.perf_counter() - started
            while bool(search.is_open.any()):
                logits = self._next_logits(executor, cache, search)
                records.append(self._advance(search, cache, logits, len(records)))
        return self._results(search, records, first, started)

    def _prefill(self, executor: Executor, cache: Cache, rows: int) -> Tensor:
        """Logits `[rows, V]` after the prompts, whose states every row of the cache then holds."""
        model, part = self.model, cache.part(rows)
        tokens, mask = pad(self.prompts, model.device, rows)
        values = {**model.default_inputs(tokens), model.facts.inputs[0].name: tokens, **self.once(rows)}
        outputs = model.run_program(values, part, mask, executor=executor, last_token_only=True)
        cache.spread(part)
        return outputs["logits"][:, -1].float()

    def _begin(self, cache: Cache, logits: Tensor, rows: int) -> Beams:
        penalty = sampling_of(self.options).repetition_penalty
        search = Beams(
            self.settings, prompts=rows, vocab_size=logits.shape[-1], ends=self.stops, device=logits.device,
            counts=penalty != 1,
        )  # fmt: skip
        search.begin(cache.lengths[:: self.settings.num_beams], self.prompts, ends=self.stops, penalty=penalty)
        return search

    def _advance(self, search: Beams, cache: Cache, logits: Tensor, drawn: int) -> Record:
        """One step, after which the rows of the cache have gone on from those that they follow."""
        rule = torch.tensor(self.settings.rule(drawn + 1, self.limit), device=logits.device)
        search.advance(logits, cache.lengths, rule, may_end=drawn >= (self.options.min_new_tokens or 0))
        if bool(search.is_broken.any()):
            self._require_served(logits)
        source = [int(row) for row in search.source]
        cache.reorder(source, [int(token) for token in search.first])
        if search.seen is not None:
            search.seen.copy_(search.seen[search.source])
        search.mark()
        return search.record()

    def _next_logits(self, executor: Executor, cache: Cache, search: Beams) -> Tensor:
        tokens = search.tokens[:, None]
        mask = None if bool((tokens >= 0).all()) else tokens >= 0
        fed = tokens.clamp(min=0)
        values = {**self.model.default_inputs(fed), self.model.facts.inputs[0].name: fed}
        outputs = self.model.run_program(values, cache, mask, executor=executor, last_token_only=True)
        return outputs["logits"][:, -1].float()

    def _require_served(self, logits: Tensor) -> None:
        from .sampling import require_served

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
