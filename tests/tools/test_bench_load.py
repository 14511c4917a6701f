"""The benchmarks of loading, of busy neighbours and of toys run on models small enough for a test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import llmc
from llmc.runtime.native.executor import NativeExecutor
from llmc.tools.bench import contention, load, toys
from llmc.tools.bench.llmc_engine import LlmcEngine, random_ids

SIZES = {"num_layers": 1, "hidden_size": 32, "vocab_size": 61, "num_heads": 2, "intermediate_size": 48}


def test_a_load_is_measured_in_a_process_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = llmc.load("llama", params=SIZES)
    if not isinstance(model.executor(), NativeExecutor):
        pytest.skip("machine code is switched off")
    model.save(tmp_path)
    (found,) = load.measure(tmp_path, ["none"], "", 1)
    assert 0 < found.load[0] <= found.with_import[0] < found.process[0]
    assert found.bytes == sum(parameter.nbytes for parameter in model.parameters())
    load.show([found])
    assert "| none |" in capsys.readouterr().out


def test_neighbours_count_only_within_the_block() -> None:
    model = llmc.load("llama", params=SIZES)
    engine = LlmcEngine(model, random_ids(model, 1, 4), 2)
    neighbours = contention.Neighbours(1)
    try:
        found = contention.measure(engine, "none", 2, 2, neighbours)
    finally:
        neighbours.end()
    assert len(found.alone) == len(found.beside) == 2
    assert found.median > 0
    assert found.mean > 0


def test_toys_are_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["toys", "--repeats", "1"])
    toys.main()
    assert capsys.readouterr().out.count("litetorch_gpt_") == 2
