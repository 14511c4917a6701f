"""How long llmc takes to start, check and build, in fresh processes: `python -m llmc.tools.bench.startup [--json]`.

Each line is the best of several runs beside the limit that it has to keep. A build is told without the import of torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time

MAIN = "from llmc.tools.cli import main; main()"
BUILD = """
import json, resource, sys, time
import torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
import llmc
from pathlib import Path
from llmc.runtime.artifact import write_artifact
program = llmc.build("llama2_7b", {"num_layers": int(sys.argv[1])})
write_artifact(program, Path(sys.argv[2]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([time.perf_counter() - started, peak * 1024]))
"""
RUNS = 5


def seconds(*arguments: str) -> float:
    """The best wall time of `llmc ARGUMENTS` in a fresh process."""
    times: list[float] = []
    for _ in range(RUNS):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-P", "-c", MAIN, *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return min(times)


def build(num_layers: int) -> tuple[float, int]:
    """Seconds beyond importing torch and peak bytes of building llama2_7b."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-c", BUILD, str(num_layers), folder]
        runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(RUNS)]
    return min(run[0] for run in runs), max(run[1] for run in runs)


def measure() -> list[tuple[str, float, float]]:
    """`(what, measured, limit)`; seconds, and GiB where it says so."""
    layers = {number: build(number) for number in (4, 32, 64)}
    return [
        ("llmc --help [s]", seconds("--help"), 0.3),
        ("llmc check llama2_7b [s]", seconds("check", "llama2_7b"), 0.8),
        ("llmc list [s]", seconds("list"), 3.0),
        *((f"build llama2_7b, {number} layers [s]", layers[number][0], 1.0) for number in (4, 32)),
        ("build llama2_7b, 64 layers [s]", layers[64][0], 1.2 * layers[4][0] + 0.1),
        ("peak memory, 32 layers [GiB]", layers[32][1] / 2**30, 1.0),
    ]


def main() -> None:
    """Print the table; the exit status is 1 where a limit is broken."""
    found = measure()
    if "--json" in sys.argv:
        print(json.dumps([{"what": what, "measured": value, "limit": limit} for what, value, limit in found], indent=1))
    else:
        for what, value, limit in found:
            print(f"{what:<36} {value:7.3f}   limit {limit:.2f}   {'ok' if value <= limit else 'BROKEN'}")
    sys.exit(any(value > limit for _, value, limit in found))


if __name__ == "__main__":
    main()
