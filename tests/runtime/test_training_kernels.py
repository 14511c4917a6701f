"""Modules compiled for a GPU run the Triton kernels that were picked for training: outputs and gradients of references.

The kernels run in Triton's interpreter, on CPU tensors.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import peft
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper

pytest.importorskip("triton")

import llmc
from llmc.compiler.ops.declaration import Value
from llmc.compiler.program import Program
from llmc.compiler.training import ON_A_CPU
from llmc.kernels.tolerance import assert_close
from llmc.runtime.model import LanguageModel
from llmc.specs.diagnostics import LlmcError
from llmc.tools.strict_kernels import require_kernels

from ..golden.gpu_programs import on_gpu
from ..switches import only_with_kernels, only_with_passes

COMMON: Mapping[str, Value] = {"num_layers": 1, "hidden_size": 24, "vocab_size": 31}
HEADS: Mapping[str, Value] = {**COMMON, "num_heads": 2, "head_dim": 8, "intermediate_size": 24}
MODELS: Mapping[str, Mapping[str, Value]] = {
    "llama": {**HEADS, "num_kv_heads": 1},
    "mamba2": {**COMMON, "head_dim": 16, "state_size": 8},
    "mixtral": {**HEADS, "num_kv_heads": 1, "num_experts": 3},
    "qwen3_next": {
        **HEADS, "num_kv_heads": 1, "num_key_heads": 1, "num_value_heads": 1, "key_head_dim": 8, "value_head_dim": 8,
        "expert_width": 8, "shared_width": 8, "num_experts": 2, "num_experts_per_token": 2,
    },
    "t5": {**HEADS, "dropout": 0.0},
    "trident": HEADS,
}  # fmt: skip
"""A dense decoder, state-space duality, experts, the delta rule, biases by distance, ternary layers."""
PICKED: Mapping[str, Mapping[str, str]] = {
    "llama": {"attention": "triton_prefill", "rope_apply": "triton", "gated_activation": "triton"},
    "mamba2": {"scan": "triton_chunked", "short_conv": "triton", "group_norm": "triton"},
    "mixtral": {"router": "triton", "experts": "triton"},
    "qwen3_next": {"scan": "triton_delta", "l2_norm": "triton"},
    "t5": {"attention": "triton_prefill"},
    "trident": {"rms_norm": "triton", "ternary_linear": "reference"},
}
TOLERANCE = 1e-4
"""Gradients of a few numbers, a table of distances or a decay a head, are sums over all pairs and come near 4e-5."""


def randomised(name: str) -> LanguageModel:
    """The modules on references, no parameter at its special initial value."""
    model = llmc.load(name, params=MODELS[name], seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.train()


def given_to(name: str) -> dict[str, Tensor]:
    """Two rows, one of them padded on its left."""
    tokens, mask = torch.randint(31, (2, 6)), torch.ones(2, 6, dtype=torch.bool)
    mask[1, :2] = False
    encoded = {"encoder_tokens": torch.randint(31, (2, 4))} if name == "t5" else {}
    return {"tokens": tokens, "attention_mask": mask, **encoded}


def gradients(model: LanguageModel, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The logits, and the gradient of every parameter."""
    logits = cast("Tensor", model(**given))
    weights = torch.linspace(-1.0, 1.0, logits.numel()).reshape(logits.shape)
    (logits * weights).sum().backward()
    found = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return {"logits": logits.detach(), **found}


def require_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        assert_close(path, found[path], value, tolerance=TOLERANCE)


def kernels(program: Program) -> dict[str, str]:
    """By op, what runs it in training."""
    return {one.op: one.kernel for choices in program.training.kernels.values() for one in choices}


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_are_those_of_the_references(name: str) -> None:
    only_with_kernels()
    only_with_passes()
    model, given = randomised(name), given_to(name)
    ours = on_gpu(model).train().requires_grad_()
    assert PICKED[name].items() <= kernels(ours.program).items()
    require_equal(gradients(ours, given), gradients(model, given))


def with_loss(model: LanguageModel, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    loss = cast("Tensor", model.loss(**dict[str, Any](given)))
    loss.backward()
    return {"loss": loss.detach(), **{name: cast("Tensor", one.grad) for name, one in model.named_parameters()}}


def test_what_wraps_a_leaf_takes_effect_and_the_loss_takes_the_head_over() -> None:
    """Adapters on linear layers, another module in the place of a norm, checkpointed blocks: all in one model."""
    only_with_kernels()
    model, given = randomised("llama"), given_to("llama")
    ours = on_gpu(model).train().requires_grad_()
    found: list[dict[str, Tensor]] = []
    for one in (model, ours):
        torch.manual_seed(0)
        one.get_submodule("model.layers.0").input_layernorm = nn.LayerNorm(24)
        config = peft.LoraConfig(r=2, target_modules=["q_proj", "gate_proj"], init_lora_weights=False)
        peft.get_peft_model(one, config)  # pyright: ignore[reportArgumentType]
        checkpointed = one.get_submodule("model.layers")
        checkpointed[0] = checkpoint_wrapper(checkpointed[0], CheckpointImpl.NO_REENTRANT)  # type: ignore[operator, index]
        one.requires_grad_()
        found.append(with_loss(one, given))
    fused = ours.program.training.loss
    assert fused is not None
    assert kernels(ours.program)["linear_cross_entropy"] == "triton"
    assert any("lora_A" in name for name in found[0])
    require_equal(found[1], found[0])


def test_an_exported_model_keeps_the_operators() -> None:
    only_with_kernels()
    only_with_passes()
    ours, tokens = on_gpu(randomised("llama")).train(), torch.randint(31, (1, 4))
    exported = torch.export.export(ours, (tokens,), strict=False)
    called = {str(node.target) for node in exported.graph.nodes}
    assert {"llmc.rms_norm.default", "llmc.attention.default", "llmc.rope_apply.default"} <= called
    assert torch.equal(cast("Tensor", exported.module()(tokens)), cast("Tensor", ours(tokens)))


def test_autocast_runs_products_in_its_dtype() -> None:
    """The references' numbers without autocast, as near as float16 comes."""
    model, given = randomised("mixtral"), given_to("mixtral")
    ours = on_gpu(model).train().requires_grad_()
    expected = with_loss(model, given)
    with torch.autocast("cpu", dtype=torch.float16):
        assert cast("Tensor", ours(**given)).dtype == torch.float16
        found = with_loss(ours, given)
    for path, value in expected.items():
        assert found[path].dtype == torch.float32
        assert_close(path, found[path], value, tolerance=2e-2)


def ternary(tmp_path: Path, kernels: str = "{}") -> Path:
    """A decoder whose projections no kernel with gradients serves."""
    spec = tmp_path / "mine.yaml"
    text = "extends: trident\nname: mine\nsummary: Mine\nparams: {num_layers: 1, hidden_size: 64, num_heads: 4}\n"
    spec.write_text(f"{text}x-kernels: {kernels}\n")
    return spec


def test_a_node_without_gradients_falls_back_and_strict_kernels_refuse_it(tmp_path: Path) -> None:
    only_with_kernels()
    spec = ternary(tmp_path)
    program = llmc.build(str(spec), device="cuda:sm_90")
    (refused, *_) = [one for one in program.training.kernels["layer"] if one.op == "ternary_linear"]
    assert refused.refused == (("triton_packed", "no gradients: it reads another form of weight, made once"),)
    with pytest.raises(LlmcError) as caught:
        require_kernels(program)
    assert {one.code for one in caught.value.diagnostics} == {"E0606"}
    assert "falls back to the reference in train" in str(caught.value)
    assert "no gradients" in caught.value.diagnostics[0].notes[0].text
    require_kernels(program, is_trained=False)
    require_kernels(llmc.build("llama", device="cuda:sm_90"))


def test_x_kernels_name_nodes_of_the_modules(tmp_path: Path) -> None:
    only_with_kernels()
    spec = ternary(tmp_path, "{attention: sdpa, lm_head: reference, linear_cross_entropy: reference}")
    for device in ("cpu", "cuda:sm_90"):
        program = llmc.build(str(spec), device=device)
    assert kernels(program)["attention"] == "sdpa"
    assert kernels(program)["linear_cross_entropy"] == "reference"
    with pytest.raises(LlmcError, match="E0607"):
        llmc.build(str(ternary(tmp_path, "{ternary_linear: triton_packd}")), device="cuda:sm_90")


def test_on_a_cpu_modules_run_references() -> None:
    program = llmc.build("llama_tiny")
    for choices in program.training.kernels.values():
        assert {one.kernel for one in choices} == {"reference"}
    assert ("sdpa", ON_A_CPU) in {one for c in program.training.kernels["layer"] for one in c.refused}
