"""Decoding beside busy neighbours: `python -P -m llmc.tools.bench.contention [--help]`.

A model decodes a few tokens alone, then the same with processes beside it that do nothing but count, in turn, for many
rounds; so the machine's own drift meets both. With as many neighbours as cores a fair share is half of the time, 2.0x.
Times are of a whole decode; the slowdown is the quotient of the medians, and of the means.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ...compiler.native.formats import QUANTIZE
from ...runtime.load import load
from .llmc_engine import LlmcEngine, random_ids
from .peers import SHAPE, build

WIDTHS = ("none", *QUANTIZE)
BUSY = "while True: pass"


@dataclass(slots=True, kw_only=True)
class Result:
    """One width: milliseconds a token of each decode, alone and beside the others."""

    width: str
    alone: list[float] = field(default_factory=list[float])
    beside: list[float] = field(default_factory=list[float])

    @property
    def median(self) -> float:
        """How much slower the middle run is."""
        return statistics.median(self.beside) / statistics.median(self.alone)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.beside) / statistics.fmean(self.alone)


class Neighbours:
    """Processes that count, stopped except within the block."""

    def __init__(self, count: int) -> None:
        self._processes = [subprocess.Popen([sys.executable, "-I", "-S", "-c", BUSY]) for _ in range(count)]
        time.sleep(0.3)  # let them begin to count before they are stopped
        self.__exit__()

    def __enter__(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGCONT)
        time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGSTOP)

    def end(self) -> None:
        """No more of them."""
        for process in self._processes:
            process.kill()
            process.wait()


def measure(engine: LlmcEngine, width: str, tokens: int, rounds: int, neighbours: Neighbours) -> Result:
    """`rounds` decodes alone and as many beside the neighbours, in turn; each after the same prompt."""
    result = Result(width=width)
    engine.prefill()
    engine.decode()
    for _ in range(rounds):
        engine.prefill()
        result.alone.append(engine.decode() * 1e3 / tokens)
        engine.prefill()
        with neighbours:
            result.beside.append(engine.decode() * 1e3 / tokens)
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="a model's folder; without it a random Llama is written")
    parser.add_argument("--widths", nargs="+", choices=WIDTHS, default=list(WIDTHS))
    parser.add_argument("--neighbours", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--shape", type=int, nargs=6, default=SHAPE, metavar="N", help="of the random Llama, as in peers"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: list[Result] = []
    neighbours = Neighbours(options.neighbours)
    try:
        with tempfile.TemporaryDirectory() as made:
            folder = options.folder or Path(made)
            if options.folder is None:
                build(folder, "llama", options.shape, options.prompt, options.tokens)
            for width in options.widths:
                model = load(folder, quantize=None if width == "none" else width)
                engine = LlmcEngine(model, random_ids(model, 1, options.prompt), options.tokens)
                found.append(measure(engine, width, options.tokens, options.rounds, neighbours))
                print(f"  {width}: {found[-1].median:.2f}x median, {found[-1].mean:.2f}x mean", file=sys.stderr)
    finally:
        neighbours.end()
    if options.json:
        print(json.dumps([asdict(result) for result in found], indent=1))
        return
    print("| width | alone, ms a token: median | mean | beside: median | mean | slower, median | mean |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for r in found:
        times = [
            statistics.median(r.alone),
            statistics.fmean(r.alone),
            statistics.median(r.beside),
            statistics.fmean(r.beside),
        ]
        print(
            f"| {r.width} | " + " | ".join(f"{value:.2f}" for value in times) + f" | {r.median:.2f}x | {r.mean:.2f}x |"
        )


if __name__ == "__main__":
    main()
