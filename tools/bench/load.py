"""From `load()` to the first token: `python -P -m llmc.tools.bench.load [--help]`.

Every run is a process of its own with torch imported. It loads a folder, continues a prompt of 8 tokens by one, and
says how long that took and how much memory the process then held beyond what it held with torch imported. The floor is
the time in which the weights' bytes can be read once, measured here beside every run. One run of each width comes
before and is not counted: it compiles and packs, and keeps what it made.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

from ...runtime.native.probe import Probe
from .peers import SHAPE, build
from .speed import MOST_PROBED

WIDTHS = ("none", "int8", "int4", "ternary")
PROMPT = [1, 2, 3, 4, 5, 6, 7, 8]
CHILD = """
import json, sys, time
import torch, torch.fx

def held():
    lines = open("/proc/self/status").read().splitlines()
    found = dict(line.split(":") for line in lines if line.startswith("Rss"))
    return {name: int(value.split()[0]) * 1024 for name, value in found.items()}

before = held()
wall, cpu = [time.perf_counter()], [time.process_time()]
def note():
    wall.append(time.perf_counter()), cpu.append(time.process_time())
import llmc, llmc.runtime.load, llmc.runtime.generate
note()
folder, quantize, dtype, prompt = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
model = llmc.load(folder, dtype=dtype or None, quantize=None if quantize == "none" else quantize)
note()
tokens = model.generate(prompt, max_new_tokens=1, ignore_eos=True).tokens
note()
after = held()
from llmc.tools.bench.llmc_engine import weight_bytes
print(json.dumps({
    "wall": wall, "cpu": cpu, "token": tokens[0], "bytes": weight_bytes(model),
    "anonymous": after["RssAnon"] - before["RssAnon"], "file": after["RssFile"] - before["RssFile"],
}))
"""


@dataclass(slots=True, kw_only=True)
class Result:
    """One width. Seconds of each run: `load` from `load()` to the token, `with_import` with llmc's own modules,
    `process` all of it, `cpu` of the first; `floor` the reading of `bytes`; `memory` bytes that were added."""

    width: str
    bytes: int = 0
    load: list[float] = field(default_factory=list[float])
    with_import: list[float] = field(default_factory=list[float])
    process: list[float] = field(default_factory=list[float])
    cpu: list[float] = field(default_factory=list[float])
    floor: list[float] = field(default_factory=list[float])
    anonymous: int = 0
    file: int = 0


def run(folder: Path, width: str, dtype: str) -> tuple[float, dict[str, object]]:
    """Seconds of the whole process, and what it said."""
    arguments = [sys.executable, "-P", "-c", CHILD, str(folder), width, dtype, json.dumps(PROMPT)]
    started = time.perf_counter()
    text = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True).stdout
    return time.perf_counter() - started, cast("dict[str, object]", json.loads(text))


def measure(folder: Path, widths: Sequence[str], dtype: str, repeats: int) -> list[Result]:
    """Each width in turn, `repeats` times; one run of each before that."""
    found = [Result(width=width) for width in widths]
    for result in found:
        result.bytes = cast("int", run(folder, result.width, dtype)[1]["bytes"])
    probe = Probe(min(MOST_PROBED, max(result.bytes for result in found)))
    for number in range(repeats):
        for result in found:
            floor = result.bytes / probe.bandwidth(result.bytes)
            process, said = run(folder, result.width, dtype)
            wall, cpu = cast("list[float]", said["wall"]), cast("list[float]", said["cpu"])
            result.floor.append((floor + result.bytes / probe.bandwidth(result.bytes)) / 2)
            result.load.append(wall[-1] - wall[1])
            result.with_import.append(wall[-1] - wall[0])
            result.cpu.append(cpu[-1] - cpu[1])
            result.process.append(process)
            result.anonymous, result.file = cast("int", said["anonymous"]), cast("int", said["file"])
            print(f"  round {number + 1}, {result.width}: {result.load[-1] * 1e3:.0f} ms", file=sys.stderr)
    return found


def show(found: Sequence[Result]) -> None:
    """Print the table; times in milliseconds, best and median, sizes in MB."""
    print(
        "| width | weights, MB | floor | load to token: best | median | of the floor | + imports | process | cpu ",
        end="",
    )
    print("| memory: anonymous | file | of the weights |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for r in found:
        ratio = statistics.median(a / b for a, b in zip(r.load, r.floor, strict=True))
        numbers = [r.bytes / 1e6, *(1e3 * value for value in (min(r.floor), min(r.load), statistics.median(r.load)))]
        rest = [1e3 * statistics.median(values) for values in (r.with_import, r.process, r.cpu)]
        print(f"| {r.width} | " + " | ".join(f"{value:.0f}" for value in numbers) + f" | {ratio:.2f}x | ", end="")
        memory = [r.anonymous / 1e6, r.file / 1e6]
        print(" | ".join(f"{value:.0f}" for value in (*rest, *memory)), end="")
        print(f" | {(r.anonymous + r.file) / r.bytes:.2f}x |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="a model's folder; without it a random Llama is written")
    parser.add_argument("--widths", nargs="+", choices=WIDTHS, default=list(WIDTHS))
    parser.add_argument("--dtype", default="", help="to load as; the checkpoint's by default")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--shape", type=int, nargs=6, default=SHAPE, metavar="N", help="of the random Llama, as in peers"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        if options.folder is None:
            build(folder, "llama", options.shape, len(PROMPT), 8)
            time.sleep(3)  # the cache trusts no file that has only just been written
        found = measure(folder, options.widths, options.dtype, options.repeats)
    print(json.dumps([asdict(result) for result in found], indent=1)) if options.json else show(found)


if __name__ == "__main__":
    main()
