"""A program for a GPU, its Triton kernels interpreted, gives what the program for a CPU gives: prompt, then tokens."""

# pyright: basic
from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

import llmc
from llmc.compiler.program import kernels_are_on, passes_are_on
from llmc.kernels.gpu.op import is_interpreted
from llmc.kernels.tolerance import assert_close
from llmc.runtime.execute import TorchExecutor
from llmc.runtime.storage import ParameterBinder, tensors_of

SMALL = {"hidden_size": 32, "num_heads": 4, "vocab_size": 31, "intermediate_size": 24}
LATENT_SIZES = {
    "kv_lora_rank": 12, "q_lora_rank": 10, "nope_head_dim": 8, "rope_head_dim": 4, "v_head_dim": 6, "num_experts": 4,
    "num_experts_per_token": 2, "num_expert_groups": 2, "top_expert_groups": 1, "expert_width": 12,
}  # fmt: skip
CASES = {
    "llama_tiny": {**SMALL, "num_layers": 2, "num_kv_heads": 2},
    "mistral_tiny": {**SMALL, "num_layers": 1, "num_kv_heads": 2, "sliding_window": 3},
    "deepseek_v2": {**SMALL, **LATENT_SIZES, "num_layers": 2, "max_seq_len": 64},
}
JOINED = {"append_attend": "triton_joined"}
LATENT = {"latent_attend_cached": "triton_decode", "kv_latent_append": "triton"}
PICKED = {"llama_tiny": JOINED, "mistral_tiny": JOINED, "deepseek_v2": LATENT}


@pytest.mark.skipif(not (is_interpreted() and kernels_are_on() and passes_are_on()), reason="about interpreted kernels")
@pytest.mark.parametrize("spec", CASES)
def test_it_continues_a_ragged_prompt_as_on_a_cpu(spec: str) -> None:
    model = llmc.load(spec, params=CASES[spec], seed=1)
    for parameter in model.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(parameter.numel())).div_(4)
    program = llmc.build(spec, params=CASES[spec], device="cuda:sm_90")
    chosen = {choice.op: choice.kernel for kernels in program.kernels["decode"].values() for choice in kernels}
    assert PICKED[spec].items() <= chosen.items()
    bound = ParameterBinder(model, program).bind()
    executor = TorchExecutor(program, [tuple(tensors_of(one)) for one in bound])
    tokens = torch.randint(0, 31, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, :2] = False
    caches = [model.new_cache(2, 40) for _ in range(2)]
    for start, end in ((0, 6), (6, 7), (7, 8), (8, 9)):
        values = {program.model.inputs[0].name: tokens[:, start:end]}
        padding = mask if start == 0 else None
        with torch.inference_mode():
            expected = model.run_program(values, caches[0], padding)["logits"]
            logits = model.run_program(values, caches[1], padding, executor=executor)["logits"]
        real = mask if start == 0 else torch.ones(2, 1, dtype=torch.bool)
        assert_close(f"tokens {start} to {end}", logits[real], expected[real], tolerance=3e-5)
