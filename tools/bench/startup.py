"""How long llmc takes to start, check and build, in fresh processes: `python -m llmc.tools.bench.startup [--json]`.

Each line is the best of several runs beside the limit that it has to keep, with the processor time: where the two
are far apart the machine was busy. A build is told without the import of torch.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass

MAIN = "from llmc.tools.cli import main; main()"
BUILD = """
import json, resource, sys, time
import torch
started, cpu = time.perf_counter(), time.process_time()
import llmc
from pathlib import Path
from llmc.runtime.artifact import write_artifact
program = llmc.build("llama2_7b", {"num_layers": int(sys.argv[1])})
write_artifact(program, Path(sys.argv[2]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([time.perf_counter() - started, time.process_time() - cpu, peak * 1024]))
"""
RUNS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One promise: seconds (or GiB, where it says so), the seconds of processor time, and the limit."""

    what: str
    measured: float
    cpu: float | None
    limit: float


def command(limit: float, *arguments: str) -> Line:
    """`llmc ARGUMENTS` in a fresh process."""
    walls: list[float] = []
    cpus: list[float] = []
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        subprocess.run([sys.executable, "-P", "-c", MAIN, *arguments], check=True, capture_output=True)
        walls.append(time.perf_counter() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return Line(what=f"llmc {' '.join(arguments)} [s]", measured=min(walls), cpu=min(cpus), limit=limit)


def build(num_layers: int) -> tuple[float, float, int]:
    """Seconds beyond importing torch, those of the processor, and peak bytes, of building llama2_7b."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [sys.executable, "-P", "-c", BUILD, str(num_layers), folder]
        runs = [json.loads(subprocess.run(arguments, check=True, capture_output=True).stdout) for _ in range(RUNS)]
    return min(run[0] for run in runs), min(run[1] for run in runs), max(run[2] for run in runs)


def measure() -> list[Line]:
    """Every promise that the project makes about starting."""
    built = {number: build(number) for number in (4, 32, 64)}
    limits = {4: 1.0, 32: 1.0, 64: 1.2 * built[4][0] + 0.1}
    return [
        command(0.3, "--help"),
        command(0.8, "check", "llama2_7b"),
        command(3.0, "list"),
        *(
            Line(what=f"build llama2_7b, {number} layers [s]", measured=wall, cpu=cpu, limit=limits[number])
            for number, (wall, cpu, _) in built.items()
        ),
        Line(what="peak memory, 32 layers [GiB]", measured=built[32][2] / 2**30, cpu=None, limit=1.0),
    ]


def main() -> None:
    """Print the table; the exit status is 1 where a limit is broken."""
    found = measure()
    if "--json" in sys.argv:
        print(json.dumps([asdict(line) for line in found], indent=1))
    else:
        for line in found:
            cpu = "-" if line.cpu is None else f"{line.cpu:.3f}"
            verdict = "ok" if line.measured <= line.limit else "BROKEN"
            print(f"{line.what:<36} {line.measured:7.3f}   cpu {cpu:>6}   limit {line.limit:.2f}   {verdict}")
    sys.exit(any(line.measured > line.limit for line in found))


if __name__ == "__main__":
    main()
