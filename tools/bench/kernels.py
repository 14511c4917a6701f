"""Linear kernels beside the machine's limits: `python -P -m llmc.tools.bench.kernels [--help]`.

One row of x against the time of reading the same bytes, measured before and after each run; larger batches against
arithmetic in registers. `of limit` is the median of the paired ratios, once by the clock and once by processor time,
which says more on a machine that others use too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FORMATS = ("fp32", "bf16", "fp16", "int8", "int4_32", "int4_128", "ternary")
SMALL_BATCH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One format at one number of rows; times in seconds, of all matrices together."""

    format: str
    rows: int
    huge_pages: bool
    bytes: int
    products: float
    best: float
    median: float
    cpu: float
    limit_best: float
    limit_median: float
    share: float
    share_cpu: float

    @property
    def rate(self) -> str:
        """What the best run reached: bytes read a second, or products and sums."""
        if self.rows <= SMALL_BATCH:
            return f"{self.bytes / self.best / 1e9:7.1f} GB/s"
        return f"{self.products / self.best / 1e9:7.1f} GFLOP/s"


def compiled(folder: Path) -> Path:
    """The driver with all linear kernels, for this machine. Raises SystemExit where there is no compiler."""
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        sys.exit("no C compiler: install gcc or clang, or set CC")
    native, linear = ROOT / "kernels" / "native", ROOT / "kernels" / "linear" / "native"
    sources = [Path(__file__).with_suffix(".c"), native / "team.c", *sorted(linear.glob("*.c"))]
    target = folder / "kernels"
    command = [compiler, "-O2", "-march=native", f"-I{native}", f"-I{linear}", *map(str, sources)]
    subprocess.run([*command, "-o", str(target), "-lpthread", "-lm"], check=True)
    return target


def measure(driver: Path, format: str, rows: int, huge_pages: bool, options: argparse.Namespace) -> Line:
    """Runs the driver once."""
    numbers = (FORMATS.index(format), rows, options.millions, options.threads, options.repeats, int(huge_pages))
    text = subprocess.run([str(driver), *map(str, numbers)], check=True, capture_output=True, text=True).stdout
    found = json.loads(text)
    found.pop("parameters")
    return Line(format=format, rows=rows, huge_pages=huge_pages, **found)


def show(lines: list[Line]) -> None:
    """Prints the table."""
    print("format    rows  pages       MB   best ms  median ms       reached    of limit  of limit (cpu)")
    for line in lines:
        pages = "huge" if line.huge_pages else "4 KB"
        times = f"{line.best * 1e3:9.2f}  {line.median * 1e3:9.2f}  {line.rate:>15}"
        shares = f"{line.share:9.0%}  {line.share_cpu:14.0%}"
        print(f"{line.format:<9} {line.rows:>4}  {pages}  {line.bytes / 1e6:7.0f} {times}  {shares}")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 128])
    parser.add_argument("--millions", type=int, default=450, help="parameters of the matrices together")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--pages", nargs="+", choices=("huge", "4k"), default=["huge"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        driver = compiled(Path(folder))
        lines = [
            measure(driver, format, rows, pages == "huge", options)
            for rows in options.rows
            for format in options.formats
            for pages in options.pages
        ]
    if options.json:
        print(json.dumps([asdict(line) for line in lines], indent=1))
    else:
        show(lines)


if __name__ == "__main__":
    main()
