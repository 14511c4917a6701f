"""Finds the best launch parameters on the GPU at hand: `python -P -m llmc.tools.bench.tune [--help]`.

Runs the cases of the GPU benchmark, one tunable kernel of each after the other, through the bounded set that the kernel
declares. What beats the rule's guess goes to this machine's table, which every later process reads; nothing is tuned
while a request runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...kernels.gpu.set_aside import is_compile_failure
from ...kernels.gpu.tuning import Config, Tunable, forced, gpu_name, read_table, recorded, user_table
from ..terminal import table
from .gpu import FAMILIES
from .gpu_cases.case import Case, Sizes
from .gpu_measure import Clock, events

WORTH = 0.98
"""A configuration is kept where it takes at most this share of the rule's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """One entry: the rule's time, the best one, how many were tried and how many do not compile."""

    case: str
    entry: str
    guess: float
    best: float
    config: Config | None
    tried: int
    broken: int


def tune(case: Case, clock: Clock) -> Iterator[Tuned]:
    """Every tunable kernel that a case launches, the others as they are."""
    with recorded() as asked:
        case.ours()
    for entry, (tunable, key) in asked.items():
        guess = clock(case.ours)
        times = [(_time(case, tunable, config, clock), config) for config in tunable.space(key)]
        whole = [(seconds, config) for seconds, config in times if seconds is not None]
        best, config = min(whole, key=lambda pair: pair[0], default=(guess, None))
        is_worth = best <= WORTH * guess
        yield Tuned(
            case=case.name,
            entry=entry,
            guess=guess,
            best=best if is_worth else guess,
            config=config if is_worth else None,
            tried=len(times),
            broken=len(times) - len(whole),
        )


def _time(case: Case, tunable: Tunable, config: Config, clock: Clock) -> float | None:
    """Seconds with a configuration; None where it does not compile or does not fit the GPU."""
    try:
        with forced(tunable.name, config):
            return clock(case.ours)
    except Exception as error:
        if not is_compile_failure(error):
            raise
        return None


def keep(path: Path, found: Sequence[Tuned]) -> Mapping[str, Config]:
    """Add what was found to a table, whole or not at all; returns the table."""
    merged = {**read_table(path), **{one.entry: dict(one.config) for one in found if one.config is not None}}
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".part")
    written.write_text(json.dumps(dict(sorted(merged.items())), indent=1) + "\n")
    written.replace(path)
    return merged


def main() -> None:
    """Read the command line, tune, write the table."""
    parser = argparse.ArgumentParser(prog="llmc.tools.bench.tune", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", choices=list(FAMILIES), help="a family; may be repeated")
    parser.add_argument("--dtype", choices=["bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--seconds", type=float, default=420.0, help="start no further case after so long")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: this machine's table")
    options = parser.parse_args()
    gpu = gpu_name()
    if gpu is None:
        sys.exit("no GPU is present: nothing was tuned")
    path = options.output or user_table(gpu)
    sizes = Sizes(device=torch.device("cuda"), dtype=getattr(torch, options.dtype), is_tiny=False)
    started, found = time.monotonic(), list[Tuned]()
    for family in options.only or list(FAMILIES):
        for build in FAMILIES[family](sizes):
            if time.monotonic() - started > options.seconds:
                print(f"out of time before all of {family}: run again with --only {family}")
                break
            found += tune(build(), events)
            keep(path, found)
    rows = [
        (one.case, one.entry, f"{one.guess * 1e6:.0f}", f"{one.best * 1e6:.0f}", str(one.tried), str(one.broken))
        for one in found
    ]
    table(("case", "entry", ">rule us", ">best us", ">tried", ">broken"), rows)
    print(f"{sum(one.config is not None for one in found)} entries in {path}")


if __name__ == "__main__":
    main()
