"""What a request for text may say, and what it takes where it says nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from ..specs.diagnostics import did_you_mean, fail
from .beam_settings import BeamSettings, EarlyStopping
from .sampling import Sampling

if TYPE_CHECKING:
    from .model import LanguageModel

DEFAULT_NEW_TOKENS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a request may say. None takes what the folder's generation_config.json (for the penalty) or the spec's
    `generation:` says, else greedy and 100 tokens. From `num_beams` on: as of `BeamSettings`."""

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
    min_new_tokens: int | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False
    num_return_sequences: int = 1


_DRAWING = ("temperature", "top_k", "top_p", "min_p")


def options_of(model: LanguageModel, given: Mapping[str, object]) -> Options:
    """A request's options, with the model's own where it leaves them open.

    Raises E0807 for one that does not exist or that does not go with the others, E0862 for an impossible search.
    """
    unknown = given.keys() - Options.__dataclass_fields__.keys()
    if unknown:
        name = sorted(unknown)[0]
        raise fail("E0807", f"generate has no option {name!r}", help=did_you_mean(name, Options.__dataclass_fields__))
    options = Options(**given)  # type: ignore[arg-type]
    if beams_of(options).num_beams == 1:
        return with_defaults(model, options)
    unusable = [name for name in (*_DRAWING, "stream", "stop", "logprobs") if getattr(options, name)]
    if options.logprobs is not None or unusable:
        name = (unusable or ["logprobs"])[0]
        raise fail(
            "E0807",
            f"a beam search (num_beams={options.num_beams}) has no {name}",
            help="beams are scored, not drawn, and known at the end only: leave it out, or take num_beams=1",
        )
    found = with_defaults(model, options)
    return replace(found, stop=(), **dict.fromkeys(_DRAWING))  # pyright: ignore[reportArgumentType]


def beams_of(options: Options) -> BeamSettings:
    """How a request is searched. Raises E0862 for what cannot be."""
    return BeamSettings(
        num_beams=options.num_beams,
        length_penalty=options.length_penalty,
        early_stopping=options.early_stopping,
        num_return_sequences=options.num_return_sequences,
    )


def with_defaults(model: LanguageModel, options: Options) -> Options:
    if options.repetition_penalty is None and model.folder_repetition_penalty is not None:
        options = replace(options, repetition_penalty=model.folder_repetition_penalty)
    defaults = model.facts.generation
    for name, value in defaults.items():
        if name in Options.__dataclass_fields__ and name != "stop" and getattr(options, name) is None:
            options = replace(options, **{name: value})  # type: ignore[arg-type]
    if not options.stop and defaults.get("stop"):
        options = replace(options, stop=cast("list[str]", defaults["stop"]))
    return options


def new_token_limit(model: LanguageModel, prompts: list[list[int]], options: Options) -> int:
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


def sampling_of(options: Options) -> Sampling:
    return Sampling(
        temperature=options.temperature or 0.0,
        top_k=options.top_k or 0,
        top_p=1.0 if options.top_p is None else options.top_p,
        min_p=options.min_p or 0.0,
        repetition_penalty=1.0 if options.repetition_penalty is None else options.repetition_penalty,
        seed=options.seed,
    )
