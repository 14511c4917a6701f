"""`llmc bench`: prefill and decode speed, with the spread over repetitions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..options import HumanInt, as_params, device_option, dtype_option, json_option, set_option, spec_argument
from ..targets import locate
from ..terminal import big, bytes_text, log, write_json

if TYPE_CHECKING:
    from ...compiler.ops.declaration import Value
    from ...runtime.model import LanguageModel


@click.command("bench")
@spec_argument("target")
@click.option("--prompt", type=HumanInt(), default=512, show_default=True, help="Tokens of the prompt.")
@click.option("--tokens", type=HumanInt(), default=64, show_default=True, help="Decoded tokens.")
@click.option("--batch", type=HumanInt(), default=1, show_default=True, help="Rows at a time.")
@click.option("--repetitions", type=HumanInt(), default=5, show_default=True, help="After one to warm up.")
@click.option("--weights", metavar="DIR", help="Default: the target's own, else random ones, which are as fast.")
@device_option
@dtype_option
@set_option
@json_option
def command(
    target: str,
    prompt: int,
    tokens: int,
    batch: int,
    repetitions: int,
    weights: str | None,
    device: str,
    dtype: str | None,
    settings: tuple[tuple[str, Value], ...],
    as_json: bool,
) -> None:
    """Measure the fused Program: a Markdown table of tokens per second of all rows, mean ± standard deviation."""
    from ...runtime.device import require_device

    require_device(device)
    found = locate(target, as_params(settings))
    has_own = found.folder is not None and (
        found.is_built or next(found.folder.glob("*.safetensors*"), None) is not None
    )
    from ...runtime.load import load

    log(f"loading {target}")
    model = load(
        target if has_own else found.spec,
        weights=None if weights is None else Path(weights),
        params=as_params(settings) if has_own else found.params,
        device=device,
        dtype=dtype,
    )
    measured = _measure(model, prompt, tokens, batch, repetitions)
    import torch

    facts = {
        "model": model.program.spec.name,
        "parameters": model.program.plan.parameters,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "weights": "random" if model.source is None else str(model.source),
        "batch": batch,
        "repetitions": repetitions,
    }
    if as_json:
        write_json({**facts, "tests": [{"test": n, "tokens_per_second": s} for n, s in measured.items()]})
        return
    size = bytes_text(model.program.plan.parameters * model.dtype.itemsize)
    print("| model | size | params | dtype | device | threads | batch | test | t/s |")
    print("|---|---:|---:|---|---|---:|---:|---:|---:|")
    for name, speeds in measured.items():
        spread = statistics.stdev(speeds) if len(speeds) > 1 else 0.0
        cells = (
            facts["model"],
            size,
            big(model.program.plan.parameters),
            facts["dtype"],
            facts["device"],
            facts["threads"],
            batch,
            name,
            f"{statistics.fmean(speeds):.2f} ± {spread:.2f}",
        )
        print(f"| {' | '.join(map(str, cells))} |")
    log(f"weights: {facts['weights']}; {repetitions} repetitions after one to warm up")


def _measure(model: LanguageModel, prompt: int, tokens: int, batch: int, repetitions: int) -> dict[str, list[float]]:
    """Tokens per second of each repetition. A decode starts at a full prompt; each step is a pass of the Program."""
    import torch

    from ...specs.diagnostics import fail

    if not model.program.states:
        raise fail(
            "E0808",
            f"{model.program.spec.name} keeps no state between tokens (it is an encoder)",
            help="bench a decoder",
        )
    generator = torch.Generator().manual_seed(0)
    size = model.program.spec.environment.get("vocab_size")
    ids = torch.randint(0, size if isinstance(size, int) else 2, (batch, prompt + tokens), generator=generator)
    ids = ids.to(model.device)
    name = model.program.model.inputs[0].name

    def step(cache: object, part: torch.Tensor) -> None:
        values = {**model.default_inputs(part), name: part}
        model.run_program(values, cache, None, last_token_only=True)  # type: ignore[arg-type]

    prefill: list[float] = []
    decode: list[float] = []
    with torch.inference_mode():
        for index in range(repetitions + 1):
            cache = model.new_cache(batch, max_seq_len=prompt + tokens)
            prefill.append(batch * prompt / _seconds(lambda cache=cache: step(cache, ids[:, :prompt]), model))  # type: ignore[misc]

            def run(cache: object = cache) -> None:
                for at in range(prompt, prompt + tokens):
                    step(cache, ids[:, at : at + 1])

            decode.append(batch * tokens / _seconds(run, model))
            if index:
                log(f"  repetition {index}: prefill {prefill[-1]:.1f}, decode {decode[-1]:.1f} tokens/s")
    return {f"pp{prompt}": prefill[1:], f"tg{tokens}": decode[1:]}


def _seconds(work: Callable[[], None], model: LanguageModel) -> float:
    import torch

    started = time.perf_counter()
    work()
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
