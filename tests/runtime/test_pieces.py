"""A prompt that runs in pieces gives what the whole gives, and its memory does not grow with it."""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor

import llmc
from llmc.compiler.pieces import refuse_pieces
from llmc.runtime.model import LanguageModel
from llmc.runtime.native import pieces
from llmc.runtime.native.executor import NativeExecutor

SMALL = {"num_layers": 2, "hidden_size": 32, "vocab_size": 61}
ATTENTION = {**SMALL, "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 48}
MODELS = {
    "llama": ATTENTION,
    "mistral": {**ATTENTION, "sliding_window": 9},
    "mamba": {**SMALL, "state_size": 4, "time_step_rank": 3},
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    found = llmc.load(request.param, params=MODELS[request.param])
    if not isinstance(found.executor(), NativeExecutor):
        pytest.skip("machine code is switched off")
    return found


def run(model: LanguageModel, tokens: Tensor, mask: Tensor | None, *, last: bool) -> tuple[Tensor, list[int]]:
    """Logits, and the greedy tokens that follow."""
    cache = model.new_cache(len(tokens), max_seq_len=64)
    name = model.program.model.inputs[0].name
    with torch.inference_mode():
        logits = model.run_program({name: tokens}, cache, mask, last_token_only=last)["logits"]
        step = model.run_program({name: tokens[:, :1]}, cache, None)["logits"]
    return logits, cast("list[int]", step.flatten().mul(1e4).round().long().tolist())


@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("last", [True, False])
def test_pieces_give_what_the_whole_gives(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, side: str, last: bool
) -> None:
    tokens = torch.randint(0, 61, (2, 41), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 41, dtype=torch.bool)
    if side == "left":
        mask[1, :20] = False
    elif side == "right":
        mask[1, 6:] = False
    whole, after = run(model, tokens, mask, last=last)
    monkeypatch.setattr(pieces, "MOST_ROWS", 0)
    monkeypatch.setattr(pieces, "FEWEST", 7)
    cut, after_cut = run(model, tokens, mask, last=last)
    assert cut.shape == whole.shape
    seen = slice(None) if last else mask
    assert torch.allclose(cut[seen], whole[seen], atol=2e-6)
    assert max(abs(a - b) for a, b in zip(after, after_cut, strict=True)) <= 1


def test_memory_does_not_grow_with_the_prompt() -> None:
    model = llmc.load("llama", params=ATTENTION)
    executor = model.executor()
    if not isinstance(executor, NativeExecutor):
        pytest.skip("machine code is switched off")
    model.generate([1] * 600, max_new_tokens=1, ignore_eos=True)
    first = executor.workspace_bytes
    model.generate([1] * 1800, max_new_tokens=1, ignore_eos=True)
    assert executor.workspace_bytes == first > 0


@pytest.mark.parametrize(
    ("name", "params", "reason"),
    [
        ("bert", {}, "reads all tokens"),
        ("llama", {"rope_scaling": "dynamic", "rope_factor": 2.0}, "length of the call"),
    ],
)
def test_what_must_run_as_a_whole_says_why(name: str, params: dict[str, object], reason: str) -> None:
    program = llmc.build(name, {"num_layers": 1, **params})  # type: ignore[dict-item]
    assert reason in (refuse_pieces(program.module) or "")
