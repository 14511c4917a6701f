"""What is picked on a GPU: attention, scans, mixtures, ternary layers and norms of every architecture run in Triton."""

from __future__ import annotations

import pytest

from llmc.compiler.pipeline import build
from llmc.kernels.kernel import Kernel
from llmc.kernels.registry import KERNELS

pytest.importorskip("triton")

MEANT = (
    "attention", "attend_cached", "latent_attend_cached", "scan", "short_conv", "experts", "router", "ternary_linear",
    "ternary_projection", "rms_norm_ternary_projection", "add_rms_norm_ternary_projection",
    "rms_norm", "add_rms_norm", "layer_norm", "add_layer_norm", "group_norm", "l2_norm", "kv_full_append",
    "kv_window_append", "kv_latent_append", "rope_kv_full_append", "rope_kv_window_append", "rope_apply",
    "append_attend",
)  # fmt: skip
READS_THE_HOST = {("prefill", "kv_latent_append")}
"""What a prompt expands is cut at the longest row; a decode step is never cut."""
QUICK = ("llama3_1_8b", "deepseek_v3", "gpt_oss_20b", "zamba2", "trident_1b", "chimera", "bert_base")
MORE = (
    "bloom", "codegen", "cohere2", "falcon", "falcon_h1", "falcon_mamba", "gemma2", "gemma3", "gemma3n", "gla", "gpt2",
    "gpt_neox", "gptj", "granite", "hydra", "jamba", "kimi_linear", "lfm2", "litetorch_gpt", "llada", "llama4", "mamba",
    "mamba2", "minimax", "mixtral", "modernbert", "mpt", "nemotron_h", "olmo2", "olmo_hybrid", "olmoe", "opt", "phi",
    "phi3", "qwen2", "qwen3", "qwen3_moe", "qwen3_next", "rwkv7", "stablelm", "starcoder2", "t5", "diffllama",
)  # fmt: skip


@pytest.mark.parametrize("spec", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_triton_serves_what_matters(spec: str) -> None:
    program = build(spec, device="cuda:sm_90", dtype="bfloat16")
    left = [
        (phase, choice.path, choice.op, choice.refused)
        for phase, definitions in program.kernels.items()
        for choices in definitions.values()
        for choice in choices
        if choice.op in MEANT and (phase, choice.op) not in READS_THE_HOST and not _is_triton(choice.op, choice.kernel)
    ]
    assert left == []


def _is_triton(op: str, name: str) -> bool:
    found = [kernel for kernel in KERNELS if kernel.op == op and kernel.name == name]
    return any(kernel.is_triton for kernel in found)


def test_an_unknown_architecture_has_no_kernels_and_says_which_are_known() -> None:
    program = build("llama_tiny", device="cuda:sm_75")
    (choice,) = [choice for choice in program.kernels["decode"]["layer"] if choice.op == "append_attend"]
    reasons = dict(choice.refused)
    assert choice.kernel == "sdpa"
    assert "sm_75" in reasons["triton_joined"]
    assert "sm_90" in reasons["triton_joined"]


def test_on_a_cpu_no_triton_module_is_imported() -> None:
    triton = next(kernel for kernel in KERNELS if kernel.is_triton)
    from llmc.kernels.kernel import Request

    request = Request(op=triton.op, fields={}, shapes={}, dtype="float32", device="cpu", phase="decode")
    absent = Kernel(name="x", op=triton.op, implementation="no.such:f", serves="no.such:serves", is_triton=True)
    assert absent.refusal(request) == "a Triton kernel runs on a GPU, not on cpu"
