"""PEFT's LoRA on the module tree: three steps of training, and the fused Program follows."""

from __future__ import annotations

from typing import Any, cast

import peft
import pytest
import torch
from torch import Tensor

import llmc
from llmc.runtime.execute import Step, TorchExecutor
from llmc.runtime.model import LanguageModel
from llmc.runtime.native.executor import NativeExecutor

PARAMS = {
    "num_layers": 2,
    "hidden_size": 48,
    "num_heads": 4,
    "num_kv_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 61,
}


@pytest.fixture
def model() -> LanguageModel:
    return llmc.load("llama_tiny", params=PARAMS, seed=3)


def fused_logits(model: LanguageModel, tokens: Tensor) -> Tensor:
    """Through the Program that `generate` runs."""
    return cast("Tensor", model(tokens, cache=model.new_cache(len(tokens), 32)))


def steps(model: LanguageModel) -> list[Step]:
    """The calls of the fused Program with their operands, as torch would run them."""
    executor = model.executor()
    slow = executor.slow if isinstance(executor, NativeExecutor) else executor
    assert isinstance(slow, TorchExecutor)
    return slow.steps


def train(
    model: Any, parameters: list[torch.nn.Parameter], tokens: Tensor, steps: int, lr: float = 0.05
) -> list[float]:
    optimiser = torch.optim.AdamW(parameters, lr=lr)
    losses: list[float] = []
    model.train()
    for _ in range(steps):
        logits = model(tokens)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        optimiser.step()  # pyright: ignore[reportUnknownMemberType]
        losses.append(float(loss.detach()))
    model.eval()
    return losses


def test_lora_trains_and_the_fused_view_follows(model: LanguageModel) -> None:
    tokens = torch.arange(20).reshape(2, 10)
    before = fused_logits(model, tokens)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "gate_proj"])
    adapted = peft.get_peft_model(model, config)  # pyright: ignore[reportArgumentType]
    trainable = [p for p in adapted.parameters() if p.requires_grad]
    assert len(trainable) == 2 * 2 * 3
    assert torch.allclose(fused_logits(model, tokens), before, atol=1e-5), "an untrained adapter changes nothing"
    losses = train(adapted, trainable, tokens, 3)
    assert losses[-1] < losses[0]
    with torch.no_grad():
        expected = cast("Tensor", model(tokens))
    after = fused_logits(model, tokens)
    assert (expected - before).abs().max() > 1e-2, "training must have moved the logits"
    assert torch.allclose(after, expected, atol=1e-4)


def test_full_training_is_followed_without_a_copy(model: LanguageModel) -> None:
    tokens = torch.arange(20).reshape(2, 10)
    before = fused_logits(model, tokens)
    fused = steps(model)[1].operands["decode"]
    losses = train(model, list(model.parameters()), tokens, 3, lr=0.005)
    assert losses[-1] < losses[0]
    with torch.no_grad():
        expected = cast("Tensor", model(tokens))
    assert (expected - before).abs().max() > 1e-2
    assert torch.allclose(fused_logits(model, tokens), expected, atol=1e-4)
    again = steps(model)[1].operands["decode"]
    assert [t.data_ptr() for t in fused] == [t.data_ptr() for t in again], "the fused storage is the parameters' own"


def test_both_views_share_one_copy(model: LanguageModel) -> None:
    model.executor()
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    wanted = sum(p.numel() * p.element_size() for p in model.parameters())
    assert sum(storages.values()) == wanted
    bound = {t.untyped_storage().data_ptr() for step in steps(model) for t in step.operands["decode"]}
    assert bound <= storages.keys()


def test_a_replaced_parameter_is_noticed(model: LanguageModel) -> None:
    tokens = torch.arange(10)[None]
    fused_logits(model, tokens)
    attention = model.get_submodule("model.layers.0.self_attn.q_proj")
    attention.weight = torch.nn.Parameter(torch.randn(48, 48))
    with torch.no_grad():
        expected = cast("Tensor", model(tokens))
    assert torch.allclose(fused_logits(model, tokens), expected, atol=1e-4)


def test_leaves_are_torch_classes(model: LanguageModel) -> None:
    assert isinstance(model.get_submodule("model.layers.1.mlp.up_proj"), torch.nn.Linear)
    assert isinstance(model.get_submodule("model.embed_tokens"), torch.nn.Embedding)
    assert isinstance(model.get_submodule("model.layers"), torch.nn.ModuleList)
