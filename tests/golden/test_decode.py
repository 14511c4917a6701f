"""Tokens in pieces, through the cache, equal the reference's whole prefill."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import pytest
import torch

import llmc
from llmc.runtime.model import LanguageModel

from .conftest import Goldens
from .families import CAUSAL, VOCAB, by_name, each_causal
from .reference import BATCH, TOKENS, Golden
from .running import require_golden, run_chunks, run_modules, run_program

STEADY = [family for family in CAUSAL if family.params.get("rope_scaling") != "longrope"]
"""Families whose frequencies do not depend on the length."""
CHUNKS = {
    "token_by_token": [1] * TOKENS,
    "prompt_then_tokens": [11] + [1] * (TOKENS - 11),
    "ragged": [5, 1, 7, 2, 3, 1, 1, 9, 4, TOKENS - 33],
    "long_then_short": [29, 2, TOKENS - 31],
    "one_then_all": [1, TOKENS - 1],
}


@each_causal
@pytest.mark.parametrize("sizes", CHUNKS.values(), ids=CHUNKS)
def test_chunks_equal_the_whole(golden: Golden, model: LanguageModel, sizes: list[int]) -> None:
    require_golden(golden, {"logits": run_chunks(model, golden.tokens, sizes)})


@pytest.mark.parametrize("golden", STEADY, ids=lambda family: family.name, indirect=True)
def test_to_the_end_of_the_context(golden: Golden, model: LanguageModel) -> None:
    """The last position that the context allows, after a ring has gone round several times."""
    length = model.max_seq_len
    assert length is not None
    tokens = torch.randint(0, VOCAB, (1, length))
    expected = golden.ask(tokens)["logits"]
    for sizes in ([length], [length - 31] + [1] * 31):
        assert (run_chunks(model, tokens, sizes) - expected).abs().max() < 1e-4


@pytest.fixture
def longrope(goldens: Goldens) -> Golden:
    return goldens(by_name("phi3_longrope"))


def test_longrope_beyond_the_original_context(longrope: Golden) -> None:
    """A prompt longer than the original context takes the long factors; rows of one batch each their own."""
    model = llmc.load(longrope.folder)
    tokens = torch.randint(0, VOCAB, (BATCH, 97))
    expected = longrope.ask(tokens)["logits"]
    for run in (run_modules, run_program):
        assert (run(model, tokens)["logits"] - expected).abs().max() < 1e-4
    mask = torch.ones(BATCH, 97, dtype=torch.bool)
    mask[1, 60:] = False
    short = longrope.ask(tokens[1:, :60])["logits"]
    for run in (run_modules, run_program):
        logits = run(model, tokens, mask)["logits"]
        assert (logits[:1] - expected[:1]).abs().max() < 1e-4
        assert (logits[1:, :60] - short).abs().max() < 1e-4


@pytest.mark.xfail(strict=True, reason="keys that were cached with the short factors are not turned again")
def test_longrope_past_the_original_context(longrope: Golden) -> None:
    """A decode that passes the original context equals a whole prefill, as in transformers, which then starts anew."""
    model = llmc.load(longrope.folder)
    tokens = torch.randint(0, VOCAB, (1, 97))
    expected = longrope.ask(tokens)["logits"]
    assert (run_chunks(model, tokens, [85] + [1] * 12)[:, -1] - expected[:, -1]).abs().max() < 1e-4
