"""Kernels and models on a GPU beside its limits and its rivals: `python -P -m llmc.tools.bench.gpu [--help]`.

Every kernel is the one that the compiler picks. Rivals that are not installed are named with the reason. The table
comes last; `--json FILE` keeps all figures, what each case took among them. By estimate, not yet seen on a chip: two to
ten seconds a case, nearly all of it compilation, three minutes for all; one for 32 layers through torch.compile; one a
model with its rival. After `--seconds` nothing is begun, and what was left out is named.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from ..terminal import big, table
from .gpu_cases import attention, caches, linear, moe, packed, pointwise, rows, sampling, scan
from .gpu_cases.case import Builder, Sizes
from .gpu_compile import CompileLine, measure_compile
from .gpu_measure import Clock, Limits, Line, events, measure, measure_limits
from .gpu_models import SHAPES, ModelLine, measure_models

FAMILIES: Mapping[str, Callable[[Sizes], Iterator[Builder]]] = {
    "attention": attention.cases,
    "caches": caches.cases,
    "scan": scan.cases,
    "moe": moe.cases,
    "linear": linear.cases,
    "packed": packed.cases,
    "sampling": sampling.cases,
    "pointwise": pointwise.cases,
    "rows": rows.cases,
}


def run_kernels(
    families: Sequence[str], sizes: Sizes, limits: Limits, clock: Clock, is_over: Callable[[], bool]
) -> Iterator[Line | str]:
    """A line a case; one that fails is told in one line and the next goes on, until the time is over."""
    for family in families:
        for build in FAMILIES[family](sizes):
            if is_over():
                yield f"{family}: no time was left for all of it; --only {family} measures it alone"
                break
            started = time.monotonic()
            try:
                line = measure(build(), limits, clock)
                yield replace(line, spent=time.monotonic() - started)
            except Exception as error:  # one broken kernel must not cost the lease
                yield f"{family}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def show(
    limits: Limits,
    lines: Sequence[Line | str],
    models: Sequence[ModelLine | str],
    compiled: CompileLine | str,
) -> None:
    """Limits, kernels, compilation, models; and what failed."""
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}: copy {limits.bandwidth / 1e9:.0f} GB/s, "
          f"matmul {limits.matmul / 1e12:.0f} TFLOP/s\n")  # fmt: skip
    rows = [
        (line.target, line.name, line.kernel, f"{line.seconds * 1e6:.0f}", line.rate, f"{line.share:.0%}",
         _ratios(line), "" if line.error is None else f"{line.error:.0e}", line.goal)
        for line in lines if isinstance(line, Line)
    ]  # fmt: skip
    if rows:
        table(("", "what", "kernel", ">us", ">reached", ">of limit", "over", ">error", "goal"), rows)
    if isinstance(compiled, CompileLine):
        print(_compile_row(compiled))
    measured = [line for line in models if isinstance(line, ModelLine)]
    if measured:
        columns = ("model", ">params", ">ms a token", ">of limit", ">host us", ">launches a layer", ">sampling",
                   ">4 beams", ">first s", "over")  # fmt: skip
        table(columns, [_model_row(line) for line in measured])
    for line in (*lines, compiled, *models):
        if isinstance(line, str):
            print(f"not measured: {line}")


def run_compile(device: str, dtype: str) -> CompileLine | str:
    """G8, or what went wrong."""
    try:
        return measure_compile(device, dtype)
    except Exception as error:
        return f"compile: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _compile_row(line: CompileLine) -> str:
    over = line.whole
    if isinstance(over, float):
        over = f"torch.compile of the whole {over:.1f} s, {over / line.warm:.0f}x"
    return (
        f"G8  {line.layers} layers to the first token: {line.warm:.1f} s with kernels known, {line.cold:.1f} s with new"
        f" ones; {over} (goal: <= 3 s, >= 10x)\n"
    )


def _ratios(line: Line) -> str:
    return "; ".join(
        f"{name} {found:.2f}x" if isinstance(found, float) else f"{name}: {found}"
        for name, found in line.ratios.items()
    )


def _model_row(line: ModelLine) -> tuple[str, ...]:
    peer = line.transformers
    return (
        line.name, big(line.parameters), f"{line.token * 1e3:.2f}", f"{line.share:.0%}", f"{line.host * 1e6:.0f}",
        "" if line.kernels is None else f"{line.kernels:.1f}", f"{line.sampling:.1%}", f"{line.beams:.2f}x",
        f"{line.first:.1f}",
        peer if isinstance(peer, str) else f"transformers {peer / line.token:.2f}x",
    )  # fmt: skip


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="llmc.tools.bench.gpu", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parts = [*FAMILIES, "compile", "models"]
    parser.add_argument("--only", action="append", choices=parts, help="one of them; may be repeated")
    parser.add_argument("--dtype", choices=["bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--seconds", type=float, default=270.0, help="begin nothing after so long")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU is present: nothing was measured")
    wanted: list[str] = options.only or parts
    end = time.monotonic() + options.seconds

    def is_over() -> bool:
        return time.monotonic() > end

    device = torch.device("cuda")
    sizes = Sizes(device=device, dtype=getattr(torch, options.dtype), is_tiny=False)
    limits = measure_limits(events, device, sizes.dtype)
    families = [family for family in FAMILIES if family in wanted]
    lines = list(run_kernels(families, sizes, limits, events, is_over))
    compiled: CompileLine | str = "compile: no time was left" if is_over() else "compile: not asked for"
    if "compile" in wanted and not is_over():
        compiled = run_compile("cuda", options.dtype)
    models: list[ModelLine | str] = []
    if "models" in wanted:
        models += measure_models(limits, events, "cuda", options.dtype, SHAPES, is_over)
    if options.json is not None:
        found: dict[str, object] = {"limits": asdict(limits)}
        kinds = (("compile", CompileLine, [compiled]), ("models", ModelLine, models), ("kernels", Line, lines))
        for key, kind, group in kinds:
            found[key] = [asdict(line) for line in group if isinstance(line, kind)]
        options.json.write_text(json.dumps(found, indent=1))
    show(limits, lines, models, compiled)


if __name__ == "__main__":
    main()
