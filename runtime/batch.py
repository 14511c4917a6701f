"""A batch of prompts before its first token: what the model reads, where a text ends, and what is given back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ..specs.diagnostics import fail
from .detokenizer import Detokenizer
from .named_inputs import mask_name, prompt_input
from .options import Options, new_token_limit
from .stopping import FinishReason, Stopping, StopWatch
from .unmasking import TokenLogprobs, unmasking_of

if TYPE_CHECKING:
    from .model import LanguageModel


@dataclass(slots=True, kw_only=True)
class Generation:
    """One continued prompt. `tokens` are the new ones only (an end token included); `text` is None without a tokenizer.

    `logprobs[i]` holds token i's own (id, natural log probability) first, then the k most likely ones. Times are
    seconds. Of a beam search, `score` is the sum of the tokens' log-probabilities over `len(tokens) ** length_penalty`,
    and `others` are the next best texts.
    """

    tokens: list[int] = field(default_factory=list[int])
    text: str | None = None
    finish_reason: FinishReason = "length"
    logprobs: list[TokenLogprobs] | None = None
    prompt_tokens: int = 0
    seed: int = 0
    first_token_seconds: float = 0.0
    total_seconds: float = 0.0
    score: float | None = None
    others: list[Generation] = field(default_factory=list["Generation"])


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


class Batch:
    """One batch of prompts."""

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
        self.limit = new_token_limit(model, self.prompts, options)
        stop = (options.stop,) if isinstance(options.stop, str) else tuple(options.stop)
        if stop and model.tokenizer is None:
            raise fail(
                "E0806", "stop strings need a tokenizer", help="use stop_ids, or put tokenizer.json beside the weights"
            )
        ends = () if options.ignore_eos else eos_ids(model)
        self.ends = (*ends, *options.stop_ids)
        self._stopping = Stopping(max_new_tokens=self.limit, eos_ids=ends, stop_ids=tuple(options.stop_ids), stop=stop)
        if not 0 <= (options.min_new_tokens or 0) <= self.limit:
            raise fail(
                "E0857",
                f"min_new_tokens is {options.min_new_tokens}; expected 0 to {self.limit}, the most that may come",
            )
        self.watches = [self.new_watch() for _ in prompts]
        self.rows = [self.new_row(prompt) for prompt in range(len(prompts))]

    def new_watch(self) -> StopWatch:
        """What looks for the end of one text."""
        tokenizer = self.model.tokenizer
        return StopWatch(self._stopping, None if tokenizer is None else Detokenizer(tokenizer))

    def new_row(self, prompt: int) -> Generation:
        """A text without tokens so far."""
        return Generation(
            prompt_tokens=len((self.sources or self.prompts)[prompt]),
            text=None if self.model.tokenizer is None else "",
            seed=self.options.seed,
            logprobs=None if self.options.logprobs is None else [],
        )

    def once(self, rows: int) -> dict[str, Tensor]:
        """What only the first call takes: the prompts, where they go to an encoder, and their mask."""
        if self.source is None:
            return {}
        tokens, mask = pad(self.sources, self.model.device, rows)
        return {self.source.name: tokens, **({} if mask is None else {mask_name(self.source.name): mask})}


def pad(prompts: list[list[int]], device: torch.device, rows: int) -> tuple[Tensor, Tensor | None]:
    """Tokens `[rows, T]` and their mask, None where every row is a whole prompt."""
    prompts = prompts + [[]] * (rows - len(prompts))
    longest = max(len(prompt) for prompt in prompts)
    tokens = torch.tensor([prompt + [0] * (longest - len(prompt)) for prompt in prompts], device=device)
    if all(len(prompt) == longest for prompt in prompts):
        return tokens, None
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    return tokens, torch.arange(longest, device=device) < lengths[:, None]
