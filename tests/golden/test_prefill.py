"""A whole prompt equals the reference, through the modules and through the fused Program, however it was loaded."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import pytest
import torch

import llmc
from llmc.runtime.model import LanguageModel

from .reference import Golden
from .running import RUNS, Run, require_golden, run_modules, run_program

FLOAT64_TOLERANCE = 1e-9


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_folder_equals_reference(golden: Golden, model: LanguageModel, run: Run) -> None:
    require_golden(golden, run(model, golden.tokens, **golden.inputs))


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_spec_and_params_equal_the_folder(golden: Golden, model: LanguageModel, run: Run) -> None:
    family = golden.family
    by_spec = llmc.load(family.spec, weights=golden.folder, params=dict(family.params))
    ours, theirs = (run(m, golden.tokens, **golden.inputs) for m in (by_spec, model))
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_float64_equals_the_float64_reference(golden: Golden, run: Run) -> None:
    wide = llmc.load(golden.folder, dtype="float64")
    for name, value in run(wide, golden.tokens, **golden.inputs).items():
        assert value.dtype == torch.float64
        assert (value - golden.exact[name]).abs().max() < FLOAT64_TOLERANCE, name


def test_single_token(golden: Golden, model: LanguageModel) -> None:
    tokens = golden.tokens[:, :1]
    expected = golden.ask(tokens)
    for run in (run_modules, run_program):
        for name, value in run(model, tokens).items():
            assert torch.allclose(value, expected[name], atol=1e-5), name
