"""The error of packed models on a text: what the figures mean, and how large they may be."""

from __future__ import annotations

import math
from typing import cast

import pytest
import torch
from torch import Tensor

import llmc
from llmc.compiler.program import native_is_on
from llmc.runtime.model import LanguageModel
from llmc.runtime.native.toolchain import NoCompiler, compiler
from llmc.runtime.quantisation_error import quantisation_error, windows
from llmc.specs.diagnostics import LlmcError
from llmc.specs.packaged import packaged_folder

FOLDER = packaged_folder() / "models" / "small"


def small(quantize: str | None = None) -> LanguageModel:
    return llmc.load(FOLDER, dtype="float32", quantize=quantize)


def heldout(model: LanguageModel, size: int, most: int) -> Tensor:
    assert model.tokenizer is not None
    return windows(model.tokenizer.encode((FOLDER / "heldout.txt").read_text()[:20000]), size, most)


def test_a_model_is_itself() -> None:
    model = small()
    tokens = heldout(model, 64, 2)
    found = quantisation_error(model, model, tokens)
    assert (found.positions, found.divergence, found.agreement) == (126, 0.0, 1.0)
    logits = cast("Tensor", model(tokens))[:, :-1].double()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert math.isclose(found.before, math.exp(float(loss.detach())), rel_tol=1e-6)
    assert found.before == found.after


def test_two_models_against_torch() -> None:
    reference, other = llmc.load("llama_tiny", seed=1), llmc.load("llama_tiny", seed=2)
    tokens = torch.randint(0, 64, (3, 17), generator=torch.Generator().manual_seed(0))
    found = quantisation_error(reference, other, tokens)
    true, far = (cast("Tensor", m(tokens))[:, :-1].double().log_softmax(-1) for m in (reference, other))
    expected = torch.nn.functional.kl_div(far, true, reduction="none", log_target=True).sum(-1).mean()
    assert math.isclose(found.divergence, float(expected.detach()), rel_tol=1e-4)
    assert math.isclose(found.agreement, float((true.argmax(-1) == far.argmax(-1)).double().mean()))
    assert not math.isclose(found.before, found.after, rel_tol=1e-9)


@pytest.mark.parametrize(
    ("quantize", "divergence", "agreement", "growth"),
    [("int8", 1e-3, 0.97, 0.005), ("int4", 4e-2, 0.85, 0.03)],
)
def test_packing_the_small_model_costs_little(
    quantize: str, divergence: float, agreement: float, growth: float
) -> None:
    if not native_is_on():
        pytest.skip("machine code is switched off")
    try:
        compiler()
    except NoCompiler as reason:
        pytest.skip(str(reason))
    model = small()
    found = quantisation_error(model, small(quantize), heldout(model, 256, 4))
    assert 0 < found.divergence < divergence
    assert found.agreement > agreement
    assert found.after < found.before * (1 + growth)


def test_windows() -> None:
    assert torch.equal(windows(range(10), 4), torch.arange(8).view(2, 4))
    assert torch.equal(windows(range(10), 4, 1), torch.arange(4)[None])
    assert torch.equal(windows(range(3), 4), torch.arange(3)[None])
    with pytest.raises(LlmcError, match="E0805"):
        windows([1], 4)


def test_shapes_that_do_not_fit() -> None:
    model = llmc.load("llama_tiny")
    with pytest.raises(LlmcError, match="E0803"):
        quantisation_error(model, model, torch.zeros(1, 1, dtype=torch.int64))
