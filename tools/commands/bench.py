"""`llmc bench`: prefill and decode speed beside what the machine can do, with the spread over repetitions."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..options import HumanInt, as_params, device_option, dtype_option, json_option, set_option, spec_argument
from ..targets import Located, locate
from ..terminal import log

if TYPE_CHECKING:
    from ...compiler.ops.declaration import Value
    from ...runtime.model import LanguageModel


@click.command("bench")
@spec_argument("target")
@click.option("--prompt", type=HumanInt(), help="Tokens of the prompt. Default: 512, or what the context has room for.")
@click.option("--tokens", type=HumanInt(), default=64, show_default=True, help="Decoded tokens.")
@click.option("--batch", type=HumanInt(), default=1, show_default=True, help="Rows at a time.")
@click.option("--repetitions", type=HumanInt(), default=5, show_default=True, help="After one to warm up.")
@click.option("--weights", metavar="DIR", help="Default: the target's own, else random ones, which are as fast.")
@click.option("--quantize", type=click.Choice(["int8", "int4", "ternary"]), help="Pack the matrices.")
@click.option("--against", type=click.Choice(["hf"]), help="Run transformers too, in turn, on the same weights.")
@click.option(
    "--format",
    "style",
    type=click.Choice(["table", "markdown", "csv", "json"]),
    default="table",
    show_default=True,
    help="How to print; --json is --format json.",
)
@device_option
@dtype_option
@set_option
@json_option
def command(
    target: str,
    prompt: int | None,
    tokens: int,
    batch: int,
    repetitions: int,
    weights: str | None,
    quantize: str | None,
    against: str | None,
    style: str,
    device: str,
    dtype: str | None,
    settings: tuple[tuple[str, Value], ...],
    as_json: bool,
) -> None:
    """Measure tokens per second of all rows, and what share that is of the machine's limit.

    Decoding is greedy. Its limit is reading every weight and the state once a token; that of a prompt is its operations
    at the rate of the registers. Both are measured beside each run. An engine's peak memory is the process's own up to
    the first run.
    """
    from ...runtime.device import require_device

    require_device(device)
    found = locate(target, as_params(settings))
    if against and device != "cpu":
        raise click.UsageError("--against hf runs on a CPU: leave --device out")
    import torch

    from ...runtime.load import load
    from ...runtime.memory import peak_bytes
    from ..bench.limits import limits
    from ..bench.llmc_engine import LlmcEngine, floor, random_ids, thread_count, weight_bytes
    from ..bench.report import Report, write
    from ..bench.speed import Engine, Floor, measure
    from ..bench.transformers_engine import TransformersEngine

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if against else None
        log(f"loading {target}")
        started = time.perf_counter()
        model = _load(target, found, as_params(settings), weights, None if against else quantize, device, dtype)
        name = model.program.spec.name
        source = "random" if model.source is None else str(model.source)
        if folder is not None:
            model.save(folder)
            started = time.perf_counter()
            model = load(folder, device=device, dtype=dtype, quantize=quantize)
        load_seconds = time.perf_counter() - started
        if prompt is None:
            prompt = max(1, min(512, (model.max_seq_len or 1 << 30) - tokens))
        ids = random_ids(model, batch, prompt)
        ours = LlmcEngine(model, ids, tokens)
        log("warming up")
        ours.prefill()
        ours.decode()
        peak = peak_bytes()
        least = floor(model, batch=batch, prompt=prompt, tokens=tokens)
        engines: list[tuple[Engine, Floor]] = [(ours, least)]
        loads, widths = {ours.name: load_seconds}, {ours.name: (quantize or least.dtype, weight_bytes(model))}
        if folder is not None:
            log("loading it in transformers")
            torch.set_num_threads(thread_count(model))
            theirs = TransformersEngine(folder, ids, tokens, model.dtype)
            base = floor(model, batch=batch, prompt=prompt, tokens=tokens, is_packed=False)
            engines.append((theirs, base))
            loads[theirs.name] = theirs.load_seconds
            widths[theirs.name] = (base.dtype, model.program.plan.parameters * model.dtype.itemsize)
        machine, how = limits(device, max(base.decode_bytes for _, base in engines))
        measured = measure(
            engines, machine, prompt=prompt, tokens=tokens, batch=batch, repetitions=repetitions, report=log
        )
    write(
        Report(
            model=name,
            parameters=model.program.plan.parameters,
            device=str(model.device),
            threads=thread_count(model),
            weights=source,
            batch=batch,
            repetitions=repetitions,
            decoding="one native call" if ours.is_one_call else "a pass of the program a token",
            limits=how,
            peak_bytes=peak,
            load_seconds=loads,
            widths=widths,
            measured=measured,
        ),
        "json" if as_json else style,
    )


def _load(
    target: str,
    found: Located,
    params: Mapping[str, Value],
    weights: str | None,
    quantize: str | None,
    device: str,
    dtype: str | None,
) -> LanguageModel:
    """The target with its own weights where it has some, else as `weights` says."""
    from ...runtime.load import load

    has_own = found.folder is not None and (
        found.is_built or next(found.folder.glob("*.safetensors*"), None) is not None
    )
    return load(
        target if has_own else found.spec,
        weights=None if weights is None else Path(weights),
        params=params if has_own else found.params,
        device=device,
        dtype=dtype,
        quantize=quantize,
    )
