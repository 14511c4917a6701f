"""The tuner: tries what a kernel declares, keeps what is faster than the rule, passes over what does not compile."""

# pyright: basic
from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("triton")

from triton.errors import TritonError

from llmc.kernels.gpu.tuning import Tunable, forced, read_table
from llmc.tools.bench.gpu_cases.case import Case, Run
from llmc.tools.bench.tune import keep, tune

BLOCKS = Tunable(
    name="blocks",
    rule=lambda key: {"BLOCK": 32},
    space=lambda key: tuple({"BLOCK": size} for size in (16, 32, 64, 128, 256)),
)
SECONDS = {16: 9.0, 32: 5.0, 64: 3.0, 128: 4.0}


class Launch:
    """A kernel whose time follows from its block; the widest does not compile."""

    def __init__(self) -> None:
        self.block = 0

    def __call__(self) -> None:
        self.block = BLOCKS.config({"dtype": "bfloat16", "width": 512})["BLOCK"]
        if self.block == 256:
            raise TritonError("out of shared memory")


def found_with(seconds: dict[int, float]) -> list:
    launch = Launch()
    case = Case(target="G1", name="made up", kernel="triton", ours=launch, bytes=1, flops=1, bound="bandwidth")

    def clock(run: Run) -> float:
        run()
        return seconds[launch.block]

    return list(tune(case, clock))


def test_the_fastest_that_compiles_is_kept(tmp_path: Path) -> None:
    (tuned,) = found_with(SECONDS)
    assert (tuned.entry, tuned.config) == ("blocks(dtype=bfloat16,width=512)", {"BLOCK": 64})
    assert (tuned.guess, tuned.best, tuned.tried, tuned.broken) == (5.0, 3.0, 5, 1)
    path = tmp_path / "deep" / "gpu.json"
    keep(path, [tuned])
    assert read_table(path) == {"blocks(dtype=bfloat16,width=512)": {"BLOCK": 64}}


def test_noise_is_not_kept(tmp_path: Path) -> None:
    (tuned,) = found_with({**SECONDS, 64: 4.95, 128: 5.0})
    assert tuned.config is None
    assert tuned.best == 5.0
    assert keep(tmp_path / "gpu.json", [tuned]) == {}


def test_a_forced_configuration_holds_for_the_block_only() -> None:
    key = {"width": 1}
    with forced("blocks", {"BLOCK": 16}):
        assert BLOCKS.config(key) == {"BLOCK": 16}
    assert BLOCKS.config(key) == {"BLOCK": 32}


def test_a_damaged_table_is_an_empty_one(tmp_path: Path) -> None:
    damaged = tmp_path / "gpu.json"
    damaged.write_text('{"blocks(')
    assert read_table(damaged) == {}
    assert read_table(tmp_path / "absent.json") == {}
