"""Two shared blocks that return in turn, in float64: in float32 the reference itself is 3e-4 from its float64 run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import llmc

from .recurrent_families import RECURRENT
from .reference import make_golden
from .running import RUNS, Run


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_two_blocks_in_turn(tmp_path: Path, run: Run) -> None:
    family = next(family for family in RECURRENT if family.name == "zamba2_adapters")
    layers = ["hybrid", "linear_attention", "hybrid", "hybrid"]
    kwargs = {**family.kwargs, "num_hidden_layers": 4, "layers_block_type": layers, "num_mem_blocks": 2}
    golden = make_golden(replace(family, kwargs=kwargs), tmp_path)
    logits = run(llmc.load(tmp_path, dtype="float64"), golden.tokens)["logits"]
    assert (logits - golden.exact["logits"]).abs().max() < 1e-9
