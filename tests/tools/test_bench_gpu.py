"""The GPU benchmark at tiny sizes in Triton's interpreter: every case runs and agrees with its rival."""

# pyright: basic
from __future__ import annotations

import math
import time

import pytest
import torch

pytest.importorskip("triton")

from llmc.tools.bench import gpu_models
from llmc.tools.bench.gpu import FAMILIES, run_kernels, show
from llmc.tools.bench.gpu_cases.case import Case, Run, Sizes
from llmc.tools.bench.gpu_compile import measure_compile
from llmc.tools.bench.gpu_measure import Limits, measure, measure_limits
from llmc.tools.bench.gpu_models import Shape, measure_models

SIZES = Sizes(device=torch.device("cpu"), dtype=torch.float16, is_tiny=True)


def clock(run: Run) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


QUICK = "rows"
"""The family that runs always; at real sizes test_triton_targets.py runs all of them, without data."""


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name == QUICK else pytest.mark.slow) for name in FAMILIES]
)
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
        absent = [told for told in line.ratios.values() if isinstance(told, str)]
        assert all(told == "only on a GPU" or told.endswith("is not installed") for told in absent), absent
    assert any(line.error is not None for line in lines)


LIMITS = Limits(bandwidth=4e12, matmul=7e14)
SHAPES = (
    Shape(name="tiny", spec="llama_tiny", params={}),
    Shape(name="absent", spec="no_such_spec", params={}),
)


def test_the_table_names_all_that_was_measured_and_what_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(gpu_models, "STEPS", 4)
    lines = list(run_kernels(["linear"], SIZES, LIMITS, clock, lambda: False))
    models = list(measure_models(LIMITS, clock, "cpu", "float32", SHAPES, lambda: False))
    show(LIMITS, lines, models, measure_compile("cpu", "float32", layers=1, backend=None))
    shown = capsys.readouterr().out
    for wanted in ("G1", "a GPU", "tiny", "not measured: absent: ", "G8  1 layers", "not asked for"):
        assert wanted in shown, wanted


def test_nothing_begins_when_the_time_is_over() -> None:
    lines = list(run_kernels(list(FAMILIES), SIZES, LIMITS, clock, lambda: True))
    models = list(measure_models(LIMITS, clock, "cpu", "float32", SHAPES, lambda: True))
    assert len(lines) == len(FAMILIES)
    assert all(isinstance(line, str) and "no time was left" in line for line in (*lines, *models))


def test_a_rival_that_fails_costs_its_own_figure_only() -> None:
    def broken() -> object:
        raise RuntimeError("no kernel image\nis available")

    ours = torch.ones(3)
    case = Case(
        target="G1", name="made up", kernel="triton", ours=lambda: ours, bytes=1, flops=1, bound="bandwidth",
        rivals={"broken": broken, "torch": lambda: ours},
    )  # fmt: skip
    line = measure(case, LIMITS, clock)
    assert line.ratios["broken"] == "RuntimeError: no kernel image"
    assert isinstance(line.ratios["torch"], float)
    assert line.error is None
