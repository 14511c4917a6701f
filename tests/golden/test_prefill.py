"""A whole prompt equals the reference, through the modules and through the fused Program, however it was loaded."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import shutil

import pytest
import torch

from llmc.runtime.model import LanguageModel
from llmc.runtime.native.executor import NativeExecutor

from .reference import Golden
from .running import RUNS, Run, require_golden, run_modules, run_program

FLOAT64_TOLERANCE = 1e-9


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_folder_equals_reference(golden: Golden, model: LanguageModel, run: Run) -> None:
    require_golden(golden, run(model, golden.tokens, **golden.inputs))


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_spec_and_params_equal_the_folder(
    golden: Golden, model: LanguageModel, model_by_spec: LanguageModel, run: Run
) -> None:
    ours, theirs = (run(m, golden.tokens, **golden.inputs) for m in (model_by_spec, model))
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_what_was_written_in_c_compiles(golden: Golden, model: LanguageModel) -> None:
    """Or a mistake in the text would go unseen: torch serves where the compiler fails."""
    program = model.program
    if program.native is None or any(call.rate != "stream" for call in program.module.calls):
        pytest.skip("this program does not run as machine code")
    if shutil.which("cc") is None:
        pytest.skip("no C compiler on this machine")
    assert program.native.definitions
    assert isinstance(model.executor(), NativeExecutor)


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_float64_equals_the_float64_reference(golden: Golden, wide_model: LanguageModel, run: Run) -> None:
    for name, value in run(wide_model, golden.tokens, **golden.inputs).items():
        assert value.dtype == torch.float64
        assert (value - golden.exact[name]).abs().max() < FLOAT64_TOLERANCE, name


def test_single_token(golden: Golden, model: LanguageModel) -> None:
    tokens = golden.tokens[:, :1]
    expected = golden.ask(tokens)
    for run in (run_modules, run_program):
        for name, value in run(model, tokens).items():
            # either float32 may be 1e-5 from the exact value, on its own side
            assert torch.allclose(value, expected[name], atol=2e-5), name
