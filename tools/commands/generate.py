"""`llmc generate`: continue a prompt, streaming, with the speed told at the end."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from ...specs.diagnostics import printable
from ..options import (
    HumanInt,
    as_params,
    cache_dtype_option,
    device_option,
    dtype_option,
    json_option,
    set_option,
    spec_argument,
)
from ..terminal import bytes_text, log, write_json

if TYPE_CHECKING:
    from ...compiler.ops.declaration import Value
    from ...runtime.batch import Generation
    from ...runtime.generate import Stream
    from ...runtime.model import LanguageModel

DEFAULT_PROMPT = "In the beginning"


@click.command("generate")
@spec_argument("target", is_required=False)
@click.option("--weights", metavar="DIR", help="Folder with safetensors and tokenizer.json.")
@click.option(
    "--random", "is_random", is_flag=True, help="Fill the parameters at random instead: for trying a spec out."
)
@click.option("-p", "--prompt", help="Text, or token ids such as 1,2,3 without a tokenizer; - reads stdin.")
@click.option("-n", "--max-new-tokens", type=HumanInt(), help="Default: the spec's, else 100.")
@click.option("--min-new-tokens", type=HumanInt(0), help="No end before so many tokens.")
@click.option("--temperature", type=float, metavar="X", help="0: the likeliest token. Default: the spec's, else 0.")
@click.option("--top-k", type=HumanInt(0), help="Draw of the N likeliest; 0: of all. Default: the spec's, else 0.")
@click.option("--top-p", type=float, metavar="X", help="Draw of the likeliest that together have probability X.")
@click.option("--min-p", type=float, metavar="X", help="Draw of those at least X times as likely as the likeliest.")
@click.option("--repetition-penalty", type=float, metavar="X", help="Above 1: what was said becomes less likely.")
@click.option(
    "--num-beams", type=int, metavar="N", default=1, show_default=True, help="Above 1: search for the likeliest text."
)
@click.option(
    "--length-penalty",
    type=float,
    metavar="X",
    default=1.0,
    show_default=True,
    help="Beams: above 0 favours long texts, below short.",
)
@click.option(
    "--early-stopping",
    type=click.Choice(["false", "true", "never"]),
    default="false",
    show_default=True,
    help="Beams: end when as many texts as beams have ended; false and never look on for better ones.",
)
@click.option(
    "--num-return-sequences", type=int, metavar="N", default=1, show_default=True, help="Beams: the N best texts."
)
@click.option("--steps", type=HumanInt(), help="Masked diffusion: passes over the new tokens; default: one a token.")
@click.option("--block-size", type=HumanInt(), help="Masked diffusion: tokens that are unmasked together.")
@click.option("--seed", type=int, metavar="N", default=0, show_default=True, help="Of what is drawn, and of --random.")
@click.option("--stop", metavar="TEXT", multiple=True, help="End before this text. Can be given again.")
@click.option("--no-stream", is_flag=True, help="Print the text when it is complete.")
@click.option("--logprobs", type=HumanInt(0), help="Print each token's log probability and the N likeliest.")
@device_option
@dtype_option
@cache_dtype_option
@set_option
@json_option
def command(
    target: str | None,
    weights: str | None,
    is_random: bool,
    prompt: str | None,
    max_new_tokens: int | None,
    min_new_tokens: int | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    repetition_penalty: float | None,
    num_beams: int,
    length_penalty: float,
    early_stopping: str,
    num_return_sequences: int,
    steps: int | None,
    block_size: int | None,
    seed: int,
    stop: tuple[str, ...],
    no_stream: bool,
    logprobs: int | None,
    device: str,
    dtype: str | None,
    cache_dtype: str | None,
    settings: tuple[tuple[str, Value], ...],
    as_json: bool,
) -> None:
    """Continue a prompt. The text goes to stdout, the statistics to stderr.

    TARGET is a spec, a built folder or a Hugging Face folder; default: the small model that ships with llmc.
    """
    if is_random and weights is not None:
        raise click.UsageError("--random and --weights exclude each other")
    text = _prompt(prompt)
    chosen = _target(target, weights, is_random)
    model = _load(chosen, weights, is_random, as_params(settings), device, dtype, cache_dtype, seed)
    options = {
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": min_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "num_beams": num_beams,
        "length_penalty": length_penalty,
        "early_stopping": {"false": False, "true": True}.get(early_stopping, early_stopping),
        "num_return_sequences": num_return_sequences,
        "steps": steps,
        "block_size": block_size,
        "seed": seed,
        "stop": list(stop),
        "logprobs": logprobs,
    }
    given = _ids_or_text(model, text)
    is_streaming = not (no_stream or as_json) and model.tokenizer is not None and num_beams == 1
    found = (
        _streamed(model, given, options, is_shown=is_streaming) if num_beams == 1 else model.generate(given, **options)
    )
    if as_json:
        write_json(_values(found))
        return
    if is_streaming:
        sys.stdout.write("\n")
    else:
        for one in (found, *found.others):
            print(one.text if one.text is not None else ",".join(map(str, one.tokens)))
            if one.score is not None:
                sys.stdout.flush()
                log(f"score {one.score:.4f}")
    sys.stdout.flush()
    _print_logprobs(model, found)
    _print_statistics(found)


def _streamed(
    model: LanguageModel, prompt: str | list[int], options: Mapping[str, object], *, is_shown: bool
) -> Generation:
    """The text, shown piece by piece where that is wanted."""
    stream = cast("Stream", model.generate(prompt, stream=True, **options))
    for piece in stream:
        if is_shown:
            sys.stdout.write(piece)
            sys.stdout.flush()
    return stream.generation


def _prompt(given: str | None) -> str:
    if given is None:
        log(f"prompt: {DEFAULT_PROMPT!r} (-p gives another)")
        return DEFAULT_PROMPT
    if given != "-":
        return given
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise click.UsageError("-p - reads stdin, which is closed; give the prompt as -p TEXT")
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"stdin is not UTF-8 at byte {error.start}: {error.reason}") from None


def _target(target: str | None, weights: str | None, is_random: bool) -> str:
    """The target, with a diagnostic where it has no weights and none were given."""
    from ...runtime.locate import MANIFEST
    from ...specs.diagnostics import fail
    from ...specs.document import load_document
    from ...specs.packaged import packaged_folder

    if target is None:
        if weights is not None:
            return weights
        small = packaged_folder() / "models" / "small"
        if (small / "config.json").is_file() or (small / MANIFEST).is_file():
            return str(small)
        raise fail(
            "E0708",
            "the small model that ships with llmc is not installed here",
            help="name a TARGET: a Hugging Face folder, or a spec with --weights DIR or --random",
        )
    if weights is not None or is_random:
        return target
    folder = Path(target) if "\0" not in target else Path()
    if not folder.is_dir():
        load_document(target)
        raise fail("E0708", f"{target} has no weights", help="give --weights DIR, or --random to try the spec out")
    if (folder / MANIFEST).is_file():
        from ...runtime.containment import read_json_object

        if read_json_object(folder / MANIFEST, 1 << 20).get("weights") is None:
            raise fail("E0708", f"{target} was built without weights", help="give --weights DIR, or --random")
    return target


def _load(
    target: str,
    weights: str | None,
    is_random: bool,
    params: object,
    device: str,
    dtype: str | None,
    cache_dtype: str | None,
    seed: int,
) -> LanguageModel:
    from ...runtime.device import require_device
    from ..targets import locate

    require_device(device)
    import time

    from ...runtime.load import load

    given = cast("dict[str, Value]", params)
    found = locate(target, given)
    log(f"loading {printable(target)}")
    started = time.perf_counter()
    chosen = dtype or (_built_dtype(found.folder) if found.is_built and found.folder is not None else None)
    if is_random:
        model = load(found.spec, params=found.params, device=device, dtype=chosen, cache_dtype=cache_dtype, seed=seed)
    else:
        model = load(
            target, weights=weights, params=given, device=device, dtype=chosen, cache_dtype=cache_dtype, seed=seed
        )
    log(f"loaded in {time.perf_counter() - started:.1f} s")
    return model


def _built_dtype(folder: Path) -> str | None:
    """The dtype that `llmc build` was asked for, if it was."""
    from ...runtime.containment import read_json_object
    from ..targets import MANIFEST

    dtype = read_json_object(folder / MANIFEST, 1 << 20).get("dtype")
    return dtype if isinstance(dtype, str) else None


def _ids_or_text(model: LanguageModel, text: str) -> str | list[int]:
    """Token ids where the model has no tokenizer and the prompt is a list of them."""
    if model.tokenizer is None and re.fullmatch(r"\s*[0-9]{1,9}(\s*,\s*[0-9]{1,9})*\s*", text):
        return [int(part) for part in text.split(",")]
    return text


def _values(found: Generation) -> dict[str, object]:
    return {
        "text": found.text,
        "tokens": found.tokens,
        "finish_reason": found.finish_reason,
        "prompt_tokens": found.prompt_tokens,
        "seed": found.seed,
        "seconds": {"first_token": found.first_token_seconds, "total": found.total_seconds},
        "logprobs": found.logprobs,
        "score": found.score,
        "others": [
            {"text": other.text, "tokens": other.tokens, "finish_reason": other.finish_reason, "score": other.score}
            for other in found.others
        ],
        "peak_memory_bytes": _peak_memory(),
    }


def _print_logprobs(model: LanguageModel, found: Generation) -> None:
    for (token, logprob), *likeliest in found.logprobs or ():
        others = "  ".join(f"{_piece(model, other)} {value:.3f}" for other, value in likeliest)
        log(f"{_piece(model, token):<16} {logprob:8.3f}   {others}")


def _piece(model: LanguageModel, token: int) -> str:
    return str(token) if model.tokenizer is None else ascii(model.tokenizer.decode([token]))


def _print_statistics(found: Generation) -> None:
    """What every runner tells at the end. The first new token comes out of the prompt's pass."""
    prefill = found.prompt_tokens / found.first_token_seconds if found.first_token_seconds else 0.0
    steps, seconds = len(found.tokens) - 1, found.total_seconds - found.first_token_seconds
    speed = f"{steps / seconds:,.1f} tokens/s" if steps > 0 and seconds > 0 else "-"
    log("")
    log(f"prompt        {found.prompt_tokens} tokens, {prefill:,.1f} tokens/s")
    log(f"generated     {len(found.tokens)} tokens, {speed}")
    log(f"first token   {found.first_token_seconds:.3f} s")
    log(f"peak memory   {bytes_text(_peak_memory())}")
    log(f"seed          {found.seed}")
    log(f"finished by   {found.finish_reason}")


def _peak_memory() -> int:
    """Bytes: of the GPU where one is used, else of the process."""
    import resource

    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
