"""Kernels and models on a GPU beside its limits and its rivals: `python -P -m llmc.tools.bench.gpu [--help]`.

Every kernel is the one that the compiler picks. Rivals that are not installed are named with the reason. The table
comes last; `--json FILE` keeps all figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from ..terminal import big, table
from .gpu_cases import attention, linear, moe, packed, pointwise, sampling, scan
from .gpu_cases.case import Builder, Sizes
from .gpu_measure import Limits, Line, events, measure, measure_limits
from .gpu_models import SHAPES, ModelLine, measure_models

FAMILIES: Mapping[str, Callable[[Sizes], Iterator[Builder]]] = {
    "attention": attention.cases,
    "scan": scan.cases,
    "moe": moe.cases,
    "linear": linear.cases,
    "packed": packed.cases,
    "sampling": sampling.cases,
    "pointwise": pointwise.cases,
}


def run_kernels(families: Sequence[str], sizes: Sizes, limits: Limits) -> Iterator[Line | str]:
    """A line a case; one that fails is told in one line and the next goes on."""
    for family in families:
        for build in FAMILIES[family](sizes):
            try:
                yield measure(build(), limits, events)
            except Exception as error:  # one broken kernel must not cost the lease
                yield f"{family}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def show(limits: Limits, lines: Sequence[Line | str], models: Sequence[ModelLine]) -> None:
    """Limits, kernels, models."""
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}: copy {limits.bandwidth / 1e9:.0f} GB/s, "
          f"matmul {limits.matmul / 1e12:.0f} TFLOP/s\n")  # fmt: skip
    rows = [
        (line.target, line.name, line.kernel, f"{line.seconds * 1e6:.0f}", line.rate, f"{line.share:.0%}",
         _ratios(line), "" if line.error is None else f"{line.error:.0e}", line.goal)
        for line in lines if isinstance(line, Line)
    ]  # fmt: skip
    if rows:
        table(("", "what", "kernel", ">us", ">reached", ">of limit", "over", ">error", "goal"), rows)
    for line in lines:
        if isinstance(line, str):
            print(f"failed: {line}")
    if models:
        columns = ("model", ">params", ">ms a token", ">of limit", ">host us", ">launches a layer", ">first s", "over")
        table(columns, [_model_row(line) for line in models])


def _ratios(line: Line) -> str:
    return "; ".join(
        f"{name} {found:.2f}x" if isinstance(found, float) else f"{name}: {found}"
        for name, found in line.ratios.items()
    )


def _model_row(line: ModelLine) -> tuple[str, ...]:
    peer = line.transformers
    return (
        line.name, big(line.parameters), f"{line.token * 1e3:.2f}", f"{line.share:.0%}", f"{line.host * 1e6:.0f}",
        "" if line.kernels is None else f"{line.kernels:.1f}", f"{line.first:.1f}",
        peer if isinstance(peer, str) else f"transformers {peer / line.token:.2f}x",
    )  # fmt: skip


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="llmc.tools.bench.gpu", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--only", action="append", choices=[*FAMILIES, "models"], help="a family; may be repeated")
    parser.add_argument("--dtype", choices=["bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU is present: nothing was measured")
    wanted = options.only or [*FAMILIES, "models"]
    device = torch.device("cuda")
    sizes = Sizes(device=device, dtype=getattr(torch, options.dtype), is_tiny=False)
    limits = measure_limits(events, device, sizes.dtype)
    lines = list(run_kernels([family for family in FAMILIES if family in wanted], sizes, limits))
    models = list(measure_models(limits, "cuda", options.dtype, SHAPES)) if "models" in wanted else []
    if options.json is not None:
        found = {"limits": asdict(limits), "models": [asdict(model) for model in models]}
        kernels = [asdict(line) for line in lines if isinstance(line, Line)]
        options.json.write_text(json.dumps({**found, "kernels": kernels}, indent=1))
    show(limits, lines, models)


if __name__ == "__main__":
    main()
