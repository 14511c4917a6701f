"""Keys and values in another dtype than the model's: what attention sees, what they cost, and where it is refused."""

from __future__ import annotations

import json
from typing import cast

import pytest
import torch
from torch import Tensor

import llmc
from llmc.compiler.pipeline import read
from llmc.compiler.plan import plan
from llmc.compiler.weight_map import weight_map
from llmc.runtime.model import LanguageModel
from llmc.runtime.native.executor import NativeExecutor
from llmc.specs.diagnostics import LlmcError

from ..switches import only_with_passes
from ..tools.command_line import TINY, run

SIZES = {
    "num_layers": 2,
    "hidden_size": 32,
    "vocab_size": 61,
    "num_heads": 2,
    "num_kv_heads": 1,
    "intermediate_size": 48,
    "max_seq_len": 64,
}
MODELS = {"llama": SIZES, "mistral": {**SIZES, "sliding_window": 9}}


@pytest.fixture(autouse=True)
def _needs_machine_code() -> None:
    only_with_passes()
    if not isinstance(llmc.load("llama", params=SIZES).executor(), NativeExecutor):
        pytest.skip("machine code is switched off")


def logits(model: LanguageModel, tokens: Tensor) -> Tensor:
    """Of a prompt of 12 tokens, and then token by token."""
    cache = model.new_cache(len(tokens))
    with torch.no_grad():
        parts = [cast("Tensor", model(tokens[:, :12], cache=cache))]
        parts += [cast("Tensor", model(tokens[:, at : at + 1], cache=cache)) for at in range(12, tokens.shape[1])]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("kept", "most"), [("bfloat16", 1e-2), ("float16", 2e-3)])
def test_shorter_keys_change_little_and_cost_half(name: str, kept: str, most: float) -> None:
    tokens = torch.randint(0, 61, (2, 30), generator=torch.Generator().manual_seed(0))
    full, short = llmc.load(name, params=MODELS[name]), llmc.load(name, params=MODELS[name], cache_dtype=kept)
    expected, found = logits(full, tokens), logits(short, tokens)
    ratio = float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())
    assert 0 < ratio < most
    assert short.new_cache(3).bytes * 2 == full.new_cache(3).bytes
    assert {buffer.dtype for state in short.new_cache().states.values() for buffer in state} == {getattr(torch, kept)}


def test_longer_keys_than_the_model() -> None:
    tokens = torch.randint(0, 61, (1, 20), generator=torch.Generator().manual_seed(0))
    exact = logits(llmc.load("llama", params=SIZES, dtype="bfloat16", cache_dtype="float32"), tokens)
    rounded = logits(llmc.load("llama", params=SIZES, dtype="bfloat16"), tokens)
    assert torch.isfinite(exact).all()
    assert not torch.equal(exact, rounded)
    assert torch.allclose(exact.float(), rounded.float(), atol=0.05)


def test_the_plan_counts_what_is_allocated() -> None:
    spec, model = read("mistral", MODELS["mistral"])
    planned = plan(model, weight_map(spec, model).ties, batch=3, context=64, dtype="float32", cache_dtype="bfloat16")
    assert (
        planned.state_bytes == llmc.load("mistral", params=MODELS["mistral"], cache_dtype="bfloat16").new_cache(3).bytes
    )


def test_it_is_refused_where_torch_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LlmcError, match="E0855"):
        llmc.load("llama", params=SIZES, cache_dtype="int8")
    with pytest.raises(LlmcError, match="E0855"):
        llmc.load("mamba", params={"num_layers": 1, "hidden_size": 32, "vocab_size": 61}, cache_dtype="bfloat16")
    monkeypatch.setenv("LLMC_NATIVE", "0")
    with pytest.raises(LlmcError, match="E0855"):
        llmc.load("llama", params=SIZES, cache_dtype="bfloat16")


def test_the_command_line_takes_it() -> None:
    given = ("generate", TINY, "--random", "-p", "1,2,3", "-n", "2", "--cache-dtype", "bfloat16")
    assert run(*given).exit_code == 0
    sizes = ("plan", TINY, "--json", "--bandwidth", "10", "--tflops", "1")
    full, half = (json.loads(run(*sizes, *more).stdout) for more in ((), ("--cache-dtype", "bfloat16")))
    assert half["state_bytes"] * 2 == full["state_bytes"] > 0
