"""An op without a kernel in C: torch runs its definitions, machine code all others, and the numbers stay the same."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
    """A spec in small, the op that has no kernel, and the definitions that torch runs for it."""

    spec: str
    op: str
    params: Mapping[str, Value]
    torch_runs: frozenset[str]
    parts: tuple[int | tuple[int, int], ...]
    """Numbers of calls that torch runs, and first and count of each region."""


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
CASES = (
    Case(
        spec="llama", op="gated_linear", params=LLAMA, torch_runs=frozenset({"layer"}), parts=((0, 1), 1, 2, 3, (4, 1))
    ),
    Case(spec="llama", op="embedding", params=LLAMA, torch_runs=frozenset({"entry"}), parts=(0, (1, 4))),
    Case(
        spec="t5",
        op="cross_kv_append",
        params=T5,
        torch_runs=frozenset({"decoder_layer_once"}),
        parts=((0, 4), 4, 5, (6, 4)),
    ),
    Case(
        spec="t5",
        op="cross_kv_read",
        params=T5,
        torch_runs=frozenset({"decoder_layer"}),
        parts=((0, 6), (6, 1), 7, 8, (9, 1)),
    ),
    Case(
        spec="gemma3n",
        op="kv_full_append",
        params=SHARED,
        torch_runs=frozenset({"layer_1", "layer_3"}),
        parts=((0, 6), 6, (7, 1), 8, (9, 5)),
    ),
)


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
    native = model.program.native
    assert native is not None
    assert native.refused.keys() == case.torch_runs
    assert any(f"op {case.op} has no kernel in C" in reason.reason for reason in native.refused.values())
    parts = regions(model.program.module, native)
    assert tuple((p.first, p.count) if isinstance(p, Region) else p for p in parts) == case.parts
    assert (logits(model) - expected).abs().max() < 2e-5


def test_a_definition_is_refused_with_those_that_share_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "kv_full_append")
    native = llmc.build("gemma3n", SHARED).native
    assert native is not None
    assert "shares a cache with layer_1" in native.refused["layer_3"].reason


def test_explain_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "gated_linear")
    kernels = llmc.build("llama", LLAMA).kernels["decode"]
    assert {choice.kernel for choice in kernels["exit"]} == {"native"}
    assert all(choice.refused[0][0] == "native" for choice in kernels["layer"])
    assert "op gated_linear has no kernel in C" in kernels["layer"][0].refused[0][1]
