"""Times on a GPU: events around many runs, their median; and the limits that the same run measures."""

# pyright: reportMissingTypeStubs=false
from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch

from ...kernels.tolerance import error_ratio
from .gpu_cases.case import Case, Run, first_tensor

Clock = Callable[[Run], float]
"""Seconds of one run."""


def events(run: Run) -> float:
    """The median of many runs, with the caches flushed between them."""
    from triton import testing

    bench = cast("Callable[..., float]", testing.do_bench)  # pyright: ignore[reportUnknownMemberType]
    return bench(run, warmup=20, rep=60, return_mode="median") / 1e3


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bytes read and written a second by a large copy, and products and sums a second by a large matrix."""

    bandwidth: float
    matmul: float


def measure_limits(clock: Clock, device: torch.device, dtype: torch.dtype, *, is_tiny: bool = False) -> Limits:
    """The best of three of each."""
    words, side = (1 << 12, 64) if is_tiny else (1 << 30, 8192)
    source = torch.randn(words, device=device, dtype=dtype)
    target = torch.empty_like(source)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    copied = min(clock(lambda: target.copy_(source)) for _ in range(3))
    multiplied = min(clock(lambda: a @ b) for _ in range(3))
    return Limits(bandwidth=2.0 * source.nbytes / copied, matmul=2.0 * side**3 / multiplied)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What was measured of a case. `share` is of the limit that bounds it, `ratios` our speed over each rival's."""

    target: str
    name: str
    kernel: str
    seconds: float
    rate: str
    share: float
    ratios: dict[str, float | str]
    error: float | None
    """Of our output against the first rival's."""
    goal: str
    spent: float = 0.0
    """Seconds of the benchmark for this case: operands, compilation and repetitions."""


def measure(case: Case, limits: Limits, clock: Clock) -> Line:
    """Compare once, then time everything, ours first and last."""
    error = _error(case) if case.compares else None
    before = clock(case.ours)
    rivals = {name: run if isinstance(run, str) else _timed(run, clock) for name, run in case.rivals.items()}
    seconds = statistics.mean((before, clock(case.ours)))
    is_bytes = case.bound == "bandwidth"
    rate = f"{case.bytes / seconds / 1e9:.0f} GB/s" if is_bytes else f"{case.flops / seconds / 1e12:.0f} TFLOP/s"
    floor = case.bytes / limits.bandwidth if is_bytes else case.flops / limits.matmul
    return Line(
        target=case.target,
        name=case.name,
        kernel=case.kernel,
        seconds=seconds,
        rate=rate,
        share=floor / seconds,
        ratios={name: found if isinstance(found, str) else found / seconds for name, found in rivals.items()},
        error=error,
        goal=case.goal,
    )


def _timed(rival: Run, clock: Clock) -> float | str:
    """Seconds, or how it failed: a rival that does not run here costs nothing but its own figure."""
    try:
        return clock(rival)
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _error(case: Case) -> float | None:
    rival = next((run for run in case.rivals.values() if not isinstance(run, str)), None)
    if rival is None:
        return None
    actual = first_tensor(case.ours())
    try:
        expected = first_tensor(rival())
    except Exception:  # it is told where the rival is timed
        return None
    if actual is None or expected is None:
        return None
    return error_ratio(actual, expected.reshape(actual.shape))
