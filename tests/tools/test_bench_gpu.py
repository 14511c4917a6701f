"""The GPU benchmark at tiny sizes in Triton's interpreter: every case runs and agrees with its rival."""

# pyright: basic
from __future__ import annotations

import math
import time

import pytest
import torch

pytest.importorskip("triton")

from llmc.tools.bench.gpu import FAMILIES
from llmc.tools.bench.gpu_cases.case import Run, Sizes
from llmc.tools.bench.gpu_measure import measure, measure_limits

SIZES = Sizes(device=torch.device("cpu"), dtype=torch.float16, is_tiny=True)


def clock(run: Run) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


@pytest.mark.parametrize("family", FAMILIES)
def test_every_case_runs_and_agrees(family: str) -> None:
    torch.manual_seed(0)
    limits = measure_limits(clock, SIZES.device, SIZES.dtype, is_tiny=True)
    lines = [measure(build(), limits, clock) for build in FAMILIES[family](SIZES)]
    assert lines
    for line in lines:
        assert line.kernel.startswith("triton"), line.name
        assert line.seconds > 0
        assert math.isfinite(line.share)
        assert line.error is None or line.error < 5e-3, line.name
    assert any(line.error is not None for line in lines)
