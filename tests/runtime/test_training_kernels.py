"""Modules compiled for a GPU run the Triton kernels that were picked for training: outputs and gradients of references.

The kernels run in Triton's interpreter, on CPU tensors.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import llmc
from llmc.compiler.ops.declaration import Value
from llmc.compiler.program import Program
from llmc.kernels.tolerance import assert_close
from llmc.runtime.model import LanguageModel

from ..golden.gpu_programs import on_gpu

COMMON: Mapping[str, Value] = {"num_layers": 1, "hidden_size": 24, "vocab_size": 31}
HEADS: Mapping[str, Value] = {**COMMON, "num_heads": 2, "head_dim": 8, "intermediate_size": 24}
MODELS: Mapping[str, Mapping[str, Value]] = {
    "llama": {**HEADS, "num_kv_heads": 1},
    "mamba2": {**COMMON, "head_dim": 16, "state_size": 8},
    "mixtral": {**HEADS, "num_kv_heads": 1, "num_experts": 3},
    "qwen3_next": {
        **HEADS, "num_kv_heads": 1, "num_key_heads": 1, "num_value_heads": 1, "key_head_dim": 8, "value_head_dim": 8,
        "expert_width": 8, "shared_width": 8, "num_experts": 2, "num_experts_per_token": 1,
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
TOLERANCE = 1e-5


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
    model, given = randomised(name), given_to(name)
    ours = on_gpu(model).train().requires_grad_()
    assert PICKED[name].items() <= kernels(ours.program).items()
    require_equal(gradients(ours, given), gradients(model, given))
