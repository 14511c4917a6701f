"""An op without a kernel in C: torch runs its nodes, machine code all others, and the numbers stay the same."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

import llmc
from llmc.compiler.native import definition
from llmc.compiler.native.regions import Region, regions
from llmc.compiler.ops.declaration import Value
from llmc.kernels.native.kernel import NativeKernel
from llmc.kernels.native.registry import native_kernel
from llmc.runtime.model import LanguageModel
from llmc.runtime.native.executor import NativeExecutor

LOCAL, GLOBAL = "sliding_attention", "full_attention"
TOKENS = torch.arange(2 * 11).view(2, 11) % 29


@dataclass(frozen=True, kw_only=True)
class Case:
    """A spec in small, the op that has no kernel, and what torch then runs."""

    spec: str
    op: str
    params: Mapping[str, Value]
    torch_runs: Mapping[str, list[str]]
    """The ops of each definition that torch runs."""
    parts: str
    """The calls in order: `t` through torch, `n` as machine code, those of one region together."""


LLAMA: dict[str, Value] = {
    "vocab_size": 29, "hidden_size": 24, "intermediate_size": 40, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2,
}  # fmt: skip
T5: dict[str, Value] = {
    "vocab_size": 29, "hidden_size": 24, "intermediate_size": 40, "num_layers": 2, "num_decoder_layers": 2,
    "num_heads": 4, "head_dim": 6,
}  # fmt: skip
SHARED: dict[str, Value] = {
    "vocab_size": 29, "hidden_size": 64, "intermediate_size": [40, 40, 40, 40], "num_layers": 4, "num_heads": 4,
    "num_kv_heads": 2, "head_dim": 10, "sliding_window": 4, "layer_types": [LOCAL, GLOBAL, LOCAL, GLOBAL],
    "num_kv_shared_layers": 2, "activation_sparsity": [0.0, 0.0, 0.0, 0.0], "laurel_rank": 6,
    "per_layer_vocab_size": 29, "per_layer_size": 8, "max_seq_len": 64,
}  # fmt: skip
MIXTRAL: dict[str, Value] = {
    "vocab_size": 29, "hidden_size": 24, "intermediate_size": 20, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2,
    "num_experts": 4,
}  # fmt: skip
MAMBA: dict[str, Value] = {"vocab_size": 29, "hidden_size": 16, "num_layers": 2}
LATENT: dict[str, Value] = {
    "vocab_size": 29, "hidden_size": 24, "intermediate_size": 40, "num_layers": 2, "num_heads": 2,
    "num_dense_layers": 2, "kv_lora_rank": 12, "q_lora_rank": 10, "nope_head_dim": 8,
    "rope_head_dim": 4, "v_head_dim": 6,
}  # fmt: skip
CASES = (
    Case(
        spec="llama",
        op="gated_linear",
        params=LLAMA,
        torch_runs={"layer_part2": ["gated_linear"]},
        parts="nn t nn t nn t nn",
    ),
    Case(
        spec="llama",
        op="attend_cached",
        params=LLAMA,
        torch_runs={"layer_part2": ["kv_full_append", "attend_cached"]},
        parts="nn t nn t nn t nn",
    ),
    Case(spec="mamba", op="scan", params=MAMBA, torch_runs={"layer_part2": ["scan"]}, parts="nn t nn t nn"),
    Case(spec="mixtral", op="experts", params=MIXTRAL, torch_runs={"layer_part2": ["experts"]}, parts="nn t n t n"),
    Case(
        spec="deepseek_v3",
        op="split",
        params=LATENT,
        torch_runs={"layer_part2": ["split"], "layer_part4": ["split"]},
        parts="nn t n t nn t n t nn",
    ),
    Case(
        spec="t5",
        op="cross_kv_append",
        params=T5,
        torch_runs={"decoder_layer_once_part2": ["cross_kv_append"]},
        parts="nnnnn t n t nnnn",
    ),
    Case(
        spec="t5",
        op="cross_kv_read",
        params=T5,
        torch_runs={"decoder_layer_part2": ["cross_kv_read", "attend_cached"]},
        parts="nnnnnn nn t nn t nn",
    ),
    Case(
        spec="gemma3n",
        op="kv_full_append",
        params=SHARED,
        torch_runs={"layer_1_part2": ["kv_full_append", "attend_cached"], "layer_3_part2": ["attend_cached"]},
        parts="nnnnnnn t nnn t nnnnnn",
    ),
)


@pytest.fixture(autouse=True)
def all_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is switched off for the whole suite is switched off here by the tests that want it."""
    for name in ("LLMC_NATIVE", "LLMC_KERNELS", "LLMC_PASSES"):
        monkeypatch.delenv(name, raising=False)


def logits(model: LanguageModel) -> Tensor:
    """A prefill, a longer piece and single tokens."""
    once = {"encoder_tokens": TOKENS.flip(1)[:, :7]} if model.program.spec.name == "t5" else {}
    cache = model.new_cache(*TOKENS.shape)
    found: list[Tensor] = []
    for piece in TOKENS.split([3, 6, 1, 1], dim=1):
        given = {} if cache.length else once
        out = model(piece, cache=cache, **given)
        assert isinstance(out, Tensor)
        found.append(out)
    return torch.cat(found, dim=1)


def plant(monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    """Take the kernel of one op away."""

    def without(op: str) -> NativeKernel | None:
        return None if op == lacking else native_kernel(op)

    monkeypatch.setattr(definition, "native_kernel", without)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.spec}-{case.op}")
def test_the_rest_is_machine_code(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMC_NATIVE", "0")
    expected = logits(llmc.load(case.spec, params=dict(case.params), seed=1))
    monkeypatch.delenv("LLMC_NATIVE")
    plant(monkeypatch, case.op)
    model = llmc.load(case.spec, params=dict(case.params), seed=1)
    executor = model.executor()
    if not isinstance(executor, NativeExecutor):
        pytest.skip("there is no machine code here")
    module, native = model.program.module, model.program.native
    assert native is not None
    found = {name: [site.op.name for _, site in module.definitions[name].sites()] for name in native.refused}
    assert found == case.torch_runs
    parts = ["n" * part.count if isinstance(part, Region) else "t" for part in regions(module, native)]
    assert " ".join(parts) == case.parts
    assert (logits(model) - expected).abs().max() < 2e-5


def test_a_greedy_text_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the engine: rows that end apart, states that torch and machine code write by turns."""
    params, prompts = {**LLAMA, "max_seq_len": 40}, [[3, 1, 4], [1, 5, 9, 2, 6, 5]]
    expected = [out.tokens for out in llmc.load("llama", params=params, seed=2).generate(prompts, max_new_tokens=12)]
    for op in ("attend_cached", "rope_apply"):
        plant(monkeypatch, op)
        model = llmc.load("llama", params=params, seed=2)
        assert [out.tokens for out in model.generate(prompts, max_new_tokens=12)] == expected


def test_caches_can_be_cut_back(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "attend_cached")
    model = llmc.load("llama", params=LLAMA, seed=1)
    cache = model.new_cache(*TOKENS.shape)
    with torch.no_grad():
        whole = model(TOKENS, cache=cache)
        cache.rollback(4)
        again = model(TOKENS[:, 7:], cache=cache)
    assert isinstance(whole, Tensor)
    assert isinstance(again, Tensor)
    assert (again - whole[:, 7:]).abs().max() < 2e-5


def test_a_node_is_refused_with_those_that_share_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "kv_full_append")
    native = llmc.build("gemma3n", SHARED).native
    assert native is not None
    assert "shares a cache with layer_1_part2" in native.refused["layer_3_part2"].reason


def test_explain_says_so_by_node(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "attend_cached")
    kernels = llmc.build("llama", LLAMA).kernels["decode"]
    chosen = {choice.path: choice for choices in kernels.values() for choice in choices}
    by_torch = {path for path, choice in chosen.items() if choice.kernel != "native"}
    assert by_torch == {"self_attn.attend.append", "self_attn.attend"}
    assert chosen["self_attn.attend"].refused[0] == ("native", "op attend_cached has no kernel in C")
    assert chosen["self_attn.attend.append"].refused[0][1] == "self_attn.attend: op attend_cached has no kernel in C"


def test_a_forced_kernel_takes_its_node_alone(tmp_path: Path) -> None:
    path = tmp_path / "forced.yaml"
    path.write_text(
        "llmc: 1\nname: forced\nsummary: one node by its reference\nextends: llama\n"
        "x-kernels: {post_attention_layernorm: reference}\n"
    )
    kernels = llmc.build(path, LLAMA).kernels["prefill"]
    by_torch = [choice for choices in kernels.values() for choice in choices if choice.kernel != "native"]
    assert [choice.path for choice in by_torch] == ["post_attention_layernorm"]
    assert by_torch[0].refused[0] == ("native", "x-kernels asks for reference")
