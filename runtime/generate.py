"""Generation: prompts in, tokens and text out, through the fused Program."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ..specs.diagnostics import fail
from .cache import Cache
from .detokenizer import Detokenizer
from .execute import Executor
from .named_inputs import mask_name, prompt_input
from .prompts import encode_prompt, several_prompts
from .sampling import Drawing, Sampler, Sampling, top_logprobs
from .stopping import FinishReason, Stopping, StopWatch
from .unmasking import TokenLogprobs, Unmasking, unmask, unmasking_of

if TYPE_CHECKING:
    from .model import LanguageModel

DEFAULT_NEW_TOKENS = 100


@dataclass(slots=True, kw_only=True)
class Generation:
    """One continued prompt. `tokens` are the new ones only (an end token included); `text` is None without a tokenizer.

    `logprobs[i]` holds token i's own (id, natural log probability) first, then the k most likely ones. Times are
    seconds.
    """

    tokens: list[int] = field(default_factory=list[int])
    text: str | None = None
    finish_reason: FinishReason = "length"
    logprobs: list[TokenLogprobs] | None = None
    prompt_tokens: int = 0
    seed: int = 0
    first_token_seconds: float = 0.0
    total_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a request may say. None takes what the folder's generation_config.json (for the penalty) or the spec's
    `generation:` says, else greedy and 100 tokens."""

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int = 0
    stop: str | Sequence[str] = ()
    stop_ids: Sequence[int] = ()
    ignore_eos: bool = False
    add_special: bool = True
    stream: bool = False
    logprobs: int | None = None
    steps: int | None = None
    block_size: int | None = None


def generate(model: LanguageModel, prompt: object, **options: object) -> object:
    """A `Generation` for one prompt, a list for a list; with `stream=True` an iterator of text pieces (one prompt
    only). A model with an encoder reads the prompt there, and its decoder begins at its start token. A masked-diffusion
    model unmasks its new tokens, block by block: `steps` and `block_size` are of `unmasking.Unmasking`.

    Options are the fields of `Options`. Raises E0801 where prompt and new tokens exceed the context, E0805 for a prompt
    that is empty or no prompt, E0806 for text without a tokenizer, E0855 for impossible sampling values.
    """
    unknown = options.keys() - Options.__dataclass_fields__.keys()
    if unknown:
        from ..specs.diagnostics import did_you_mean

        name = sorted(unknown)[0]
        raise fail("E0807", f"generate has no option {name!r}", help=did_you_mean(name, Options.__dataclass_fields__))
    chosen = _with_defaults(model, Options(**options))  # type: ignore[arg-type]
    several = several_prompts(prompt)
    is_batch = several is not None
    prompts = [encode_prompt(model, one, add_special=chosen.add_special) for one in (several or [prompt])]
    run = _Run(model, prompts, chosen)
    if chosen.stream:
        if is_batch:
            raise fail("E0807", "stream=True takes a single prompt", help="stream each prompt on its own")
        return Stream(run)
    for _ in run.stream():
        pass
    return run.rows if is_batch else run.rows[0]


def _with_defaults(model: LanguageModel, options: Options) -> Options:
    if options.repetition_penalty is None and model.folder_repetition_penalty is not None:
        options = replace(options, repetition_penalty=model.folder_repetition_penalty)
    defaults = model.facts.generation
    for name, value in defaults.items():
        if name in Options.__dataclass_fields__ and name != "stop" and getattr(options, name) is None:
            options = replace(options, **{name: value})  # type: ignore[arg-type]
    if not options.stop and defaults.get("stop"):
        options = replace(options, stop=cast("list[str]", defaults["stop"]))
    return options


def eos_ids(model: LanguageModel) -> tuple[int, ...]:
    """The ids that end a text: what the weights' folder says, else the tokenizer's, else the spec's."""
    if model.folder_eos_ids is not None:
        return model.folder_eos_ids
    if model.tokenizer is not None and model.tokenizer.eos_ids:
        return model.tokenizer.eos_ids
    value = model.facts.generation.get("eos_token_id")
    return tuple(cast("list[int]", value)) if isinstance(value, list) else (value,) if isinstance(value, int) else ()


def decoder_start_id(model: LanguageModel) -> int:
    """The id that a decoder starts from: what the weights' folder says, else the spec.

    Raises E0808 where neither does.
    """
    value = model.folder_decoder_start_id
    if value is None:
        value = model.facts.generation.get("decoder_start_token_id")
    if not isinstance(value, int):
        raise fail(
            "E0808",
            f"{model.facts.name} does not say which token its decoder starts from",
            help="write generation: {decoder_start_token_id: 0}, or call the model on tokens of your own",
        )
    model.check_ids([value])
    return value


class Stream(Iterator[str]):
    """Pieces of text as they become safe to show. `generation` grows with them and is complete at the end."""

    def __init__(self, run: _Run) -> None:
        self.generation = run.rows[0]
        self._pieces = run.stream()

    def __next__(self) -> str:
        return next(self._pieces)


class _Run:
    """One batch of prompts on its way."""

    def __init__(self, model: LanguageModel, prompts: list[list[int]], options: Options) -> None:
        self.model, self.options = model, options
        if "logits" not in model.facts.outputs:
            raise fail("E0808", f"{model.facts.name} has no output 'logits', so it cannot generate")
        self.unmasking = unmasking_of(model, steps=options.steps, block_size=options.block_size)
        if not model.facts.states and self.unmasking is None:
            raise fail(
                "E0808",
                f"{model.facts.name} keeps no state between tokens (it is an encoder), so it cannot generate",
                help="call the model on the whole sequence; a masked-diffusion model says generation: {unmasking: …}",
            )
        self.source = prompt_input(model.facts.inputs)
        self.sources = prompts if self.source is not None else []
        self.prompts = prompts if self.source is None else [[decoder_start_id(model)] for _ in prompts]
        """What the stream begins with: the prompt, or where that goes to an encoder, the decoder's start token."""
        self.limit = _new_token_limit(model, self.prompts, options)
        stop = (options.stop,) if isinstance(options.stop, str) else tuple(options.stop)
        if stop and model.tokenizer is None:
            raise fail(
                "E0806", "stop strings need a tokenizer", help="use stop_ids, or put tokenizer.json beside the weights"
            )
        ends = () if options.ignore_eos else eos_ids(model)
        self.ends = (*ends, *options.stop_ids)
        stopping = Stopping(max_new_tokens=self.limit, eos_ids=ends, stop_ids=tuple(options.stop_ids), stop=stop)
        self.watches = [
            StopWatch(stopping, Detokenizer(model.tokenizer) if model.tokenizer is not None else None) for _ in prompts
        ]
        self.rows = [
            Generation(
                prompt_tokens=len(prompt),
                text=None if model.tokenizer is None else "",
                seed=options.seed,
                logprobs=None if options.logprobs is None else [],
            )
            for prompt in prompts
        ]

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
        is_simple = executor.can_sample or _sampling(options).takes_likeliest
        can_burst = executor.can_decode and is_simple and options.logprobs is None
        tokens, mask = _pad(self.prompts, model.device, cache.batch_size)
        name = model.facts.inputs[0].name
        once = self._once(cache.batch_size)
        while True:
            with torch.inference_mode():
                values = {**model.default_inputs(tokens), name: tokens, **once}
                outputs = model.run_program(values, cache, mask, executor=executor, last_token_only=True)
                logits = outputs["logits"][:, -1].float()
            if sampler is None:
                sampler = Sampler(_sampling(options), logits.shape[-1])
            active = [i for i, watch in enumerate(self.watches) if watch.finish_reason is None]
            history = [self.prompts[i] + self.rows[i].tokens for i in active]
            steps = [len(self.rows[i].tokens) for i in active]
            wants_logprobs = options.logprobs is not None
            drawn = sampler.next(logits[active], history, rows=active, steps=steps, wants_logprobs=wants_logprobs)
            for index, (row, token) in enumerate(zip(active, drawn.tokens, strict=True)):
                piece = self._accept(row, token, started)
                if drawn.logprobs is not None:
                    self._note_logprobs(row, token, drawn.logprobs[index], logits[row])
                if piece and row == 0:
                    yield piece
            if self._is_done():
                return
            if can_burst:
                yield from self._burst(executor, cache, started)
                if self._is_done():
                    return
            tokens, mask = self._next_step(cache.batch_size)
            once = {}

    def _unmask(self, how: Unmasking, started: float) -> Iterator[str]:
        blocks = unmask(
            self.model,
            self.prompts,
            self.limit,
            how,
            _sampling(self.options),
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

    def _once(self, rows: int) -> dict[str, Tensor]:
        """What only the first call takes: the prompts, where they go to an encoder, and their mask."""
        if self.source is None:
            return {}
        tokens, mask = _pad(self.sources, self.model.device, rows)
        return {self.source.name: tokens, **({} if mask is None else {mask_name(self.source.name): mask})}

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
            sampling=_sampling(self.options),
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


def _pad(prompts: list[list[int]], device: torch.device, rows: int) -> tuple[Tensor, Tensor | None]:
    """Tokens `[rows, T]` and their mask, None where every row is a whole prompt."""
    prompts = prompts + [[]] * (rows - len(prompts))
    longest = max(len(prompt) for prompt in prompts)
    tokens = torch.tensor([prompt + [0] * (longest - len(prompt)) for prompt in prompts], device=device)
    if all(len(prompt) == longest for prompt in prompts):
        return tokens, None
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    return tokens, torch.arange(longest, device=device) < lengths[:, None]


def _new_token_limit(model: LanguageModel, prompts: list[list[int]], options: Options) -> int:
    """How many tokens may be added. A limit that was asked for must fit; the default is cut to what does."""
    longest, context = max(len(prompt) for prompt in prompts), model.max_seq_len
    wanted = options.max_new_tokens
    if context is None:
        return DEFAULT_NEW_TOKENS if wanted is None else wanted
    least = 1 if wanted is None else wanted
    if longest + least > context:
        raise fail(
            "E0801",
            f"a prompt of {longest} tokens and {least} new ones do not fit the context of {context}",
            help=f"at most {context - longest} new tokens fit" if longest < context else "shorten the prompt",
        )
    return min(DEFAULT_NEW_TOKENS, context - longest) if wanted is None else wanted


def _sampling(options: Options) -> Sampling:
    return Sampling(
        temperature=options.temperature or 0.0,
        top_k=options.top_k or 0,
        top_p=1.0 if options.top_p is None else options.top_p,
        min_p=options.min_p or 0.0,
        repetition_penalty=1.0 if options.repetition_penalty is None else options.repetition_penalty,
        seed=options.seed,
    )
