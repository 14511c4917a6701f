"""What `llmc bench` prints: one line a test, as a table, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..terminal import big, bytes_text, table, write_json
from .speed import Measured, Series


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A run: what was measured, and under what conditions. load_seconds and widths (dtype, bytes) are by engine."""

    model: str
    parameters: int
    device: str
    threads: int
    weights: str
    batch: int
    repetitions: int
    decoding: str
    limits: str
    peak_bytes: int | None
    load_seconds: Mapping[str, float]
    widths: Mapping[str, tuple[str, int]]
    measured: Measured


def write(report: Report, style: str) -> None:
    """Print it; style: `table`, `markdown`, `csv` or `json`."""
    {"table": _table, "markdown": _markdown, "csv": _csv, "json": _json}[style](report)


_COLUMNS = (
    "engine",
    "model",
    ">size",
    ">params",
    "weights",
    "device",
    ">threads",
    ">batch",
    "test",
    ">t/s",
    ">best",
    ">median",
    ">of limit",
)


def _cells(report: Report, series: Series) -> tuple[str, ...]:
    dtype, size = report.widths[series.engine]
    return (
        series.engine,
        report.model,
        bytes_text(size),
        big(report.parameters),
        dtype,
        report.device,
        str(report.threads),
        str(report.batch),
        series.test,
        f"{statistics.fmean(series.speed):.2f} ± {series.spread:.2f}",
        f"{max(series.speed):.2f}",
        f"{statistics.median(series.speed):.2f}",
        f"{series.share:.0%}",
    )


def _facts(report: Report) -> list[tuple[str, str]]:
    found = [("read bandwidth", _best_and_median(report.measured.bandwidth, 1e9, "GB/s"))]
    found += [(f"{dtype} rate", _best_and_median(r, 1e9, "GFLOP/s")) for dtype, r in report.measured.rates.items()]
    found.append(("limits", f"measured {report.limits}"))
    found += [(f"load, {engine}", f"{seconds:.2f} s") for engine, seconds in report.load_seconds.items()]
    if report.peak_bytes is not None:
        found.append(("peak memory", f"{bytes_text(report.peak_bytes)}, of the process up to the first run"))
    found.append(("decoding", report.decoding))
    found.append(("weights", report.weights))
    found.append(("repetitions", f"{report.repetitions} after one to warm up"))
    if len(report.load_seconds) > 1:
        found += _ratios(report.measured.series)
    return found


def _best_and_median(values: Sequence[float], unit: float, name: str) -> str:
    return f"{max(values) / unit:.1f} best, {statistics.median(values) / unit:.1f} median {name}"


def _ratios(series: Sequence[Series]) -> list[tuple[str, str]]:
    """The first engine over each other one, by the medians of paired repetitions."""
    first = {one.test: one for one in series if one.engine == series[0].engine}
    found: list[tuple[str, str]] = []
    for one in series:
        if one.engine != series[0].engine:
            pairs = zip(first[one.test].speed, one.speed, strict=True)
            ratio = statistics.median(a / b for a, b in pairs)
            found.append((f"{one.test}: {series[0].engine} / {one.engine}", f"{ratio:.2f}x (paired median)"))
    return found


def _table(report: Report) -> None:
    table(_COLUMNS, [_cells(report, series) for series in report.measured.series])
    table(["", ""], _facts(report))


def _markdown(report: Report) -> None:
    print(f"| {' | '.join(name.removeprefix('>') for name in _COLUMNS)} |")
    print("|" + "|".join("---:" if name.startswith(">") else "---" for name in _COLUMNS) + "|")
    for series in report.measured.series:
        print(f"| {' | '.join(_cells(report, series))} |")
    print()
    for name, text in _facts(report):
        print(f"- {name}: {text}")


def _records(report: Report) -> list[dict[str, object]]:
    """One flat record a test; bytes, seconds, tokens per second, and shares of 1."""
    return [
        {
            "engine": one.engine,
            "dtype": report.widths[one.engine][0],
            "weight_bytes": report.widths[one.engine][1],
            "load_seconds": report.load_seconds[one.engine],
            "test": one.test,
            "mean": statistics.fmean(one.speed),
            "deviation": one.spread,
            "best": max(one.speed),
            "median": statistics.median(one.speed),
            "limit_median": statistics.median(one.limit),
            "share_of_limit": one.share,
        }
        for one in report.measured.series
    ]


def _conditions(report: Report) -> dict[str, object]:
    return {
        "model": report.model,
        "parameters": report.parameters,
        "device": report.device,
        "threads": report.threads,
        "weights": report.weights,
        "batch": report.batch,
        "repetitions": report.repetitions,
        "decoding": report.decoding,
        "limits": report.limits,
        "peak_bytes": report.peak_bytes,
        "bandwidth_best": max(report.measured.bandwidth),
        "bandwidth_median": statistics.median(report.measured.bandwidth),
    }


def _csv(report: Report) -> None:
    rows = [{**_conditions(report), **record} for record in _records(report)]
    writer = csv.DictWriter(sys.stdout, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _json(report: Report) -> None:
    speeds = [
        {**record, "tokens_per_second": one.speed, "limit": one.limit}
        for record, one in zip(_records(report), report.measured.series, strict=True)
    ]
    rates = {
        dtype: {"best": max(r), "median": statistics.median(r), "all": r} for dtype, r in report.measured.rates.items()
    }
    write_json({**_conditions(report), "rates": rates, "bandwidth": report.measured.bandwidth, "tests": speeds})
