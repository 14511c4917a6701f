"""float8 caches of whole models: what they cost, how near the logits stay, in torch and in a program for a GPU."""

# pyright: basic
from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("triton")

import llmc
from llmc.compiler.program import compile_model, kernels_are_on, passes_are_on
from llmc.kernels.gpu.op import is_interpreted
from llmc.kernels.tolerance import error_ratio
from llmc.runtime.gpu.executor import GpuExecutor
from llmc.runtime.model import LanguageModel
from llmc.runtime.native.executor import NativeExecutor
from llmc.runtime.tree import find
from llmc.specs.diagnostics import LlmcError

SIZES = {
    "num_layers": 2, "hidden_size": 64, "vocab_size": 61, "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 48,
    "max_seq_len": 64,
}  # fmt: skip
MODELS = {"llama": SIZES, "mistral": {**SIZES, "sliding_window": 9}}
TOKENS = torch.randint(0, 61, (2, 16), generator=torch.Generator().manual_seed(0))


def logits(model: LanguageModel) -> Tensor:
    """Of a prompt of 12 tokens, and then token by token."""
    cache = model.new_cache(2)
    with torch.no_grad():
        parts = [model(TOKENS[:, :12], cache=cache)]
        parts += [model(TOKENS[:, at : at + 1], cache=cache) for at in range(12, 16)]
    return torch.cat(parts, dim=1)  # type: ignore[arg-type]


def on_torch(name: str, monkeypatch: pytest.MonkeyPatch, cache_dtype: str | None = None) -> LanguageModel:
    monkeypatch.setenv("LLMC_NATIVE", "0")
    model = llmc.load(name, params=MODELS[name], cache_dtype=cache_dtype)
    for parameter in model.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(parameter.numel())).div_(4)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_it_changes_little_and_costs_a_quarter_of_float32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads of 32: 32 bytes and a scale of 4 for 128."""
    full, short = on_torch(name, monkeypatch), on_torch(name, monkeypatch, "float8_e4m3fn")
    assert 0 < error_ratio(logits(short), logits(full)) < 0.06
    assert short.new_cache(3).bytes * 128 == full.new_cache(3).bytes * 36


@pytest.mark.skipif(not (is_interpreted() and kernels_are_on() and passes_are_on()), reason="about interpreted kernels")
@pytest.mark.parametrize("name", MODELS)
def test_a_program_for_a_gpu_keeps_what_torch_keeps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = on_torch(name, monkeypatch, "float8_e4m3fn")
    made = LanguageModel(compile_model(model.program.spec, model.program.model, device="cuda:sm_90"))
    for path, parameter in model.named_parameters(remove_duplicate=False):
        owner, _, last = path.rpartition(".")
        setattr(find(made, owner), last, nn.Parameter(parameter.detach(), requires_grad=False))  # type: ignore[arg-type]
    made.retie()
    exact = logits(model)
    made.keep_keys_as(torch.float8_e4m3fn)
    assert error_ratio(logits(made.eval()), exact) < 0.02


def test_where_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llmc.load("llama", params=SIZES)
    if isinstance(model.executor(), NativeExecutor):
        with pytest.raises(LlmcError, match="machine code has no float8"):
            model.keep_keys_as(torch.float8_e4m3fn)
    for device, why in (("cuda:sm_80", "sm_80 has no float8"), ("cuda:sm_90", "no keys and values of heads")):
        params = {"num_layers": 1, "hidden_size": 32, "vocab_size": 61}
        name = "llama" if device == "cuda:sm_80" else "mamba"
        old = llmc.build(name, params=SIZES if name == "llama" else params)
        made = LanguageModel(compile_model(old.spec, old.model, device=device))
        monkeypatch.setattr(made, "executor", lambda made=made: GpuExecutor(made.program, ()))
        with pytest.raises(LlmcError, match=why):
            made.keep_keys_as(torch.float8_e4m3fn)
