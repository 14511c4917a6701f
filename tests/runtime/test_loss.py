"""The loss of next tokens: with the head's product, of logits where the head is wrapped, and for which targets."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import llmc
from llmc.compiler.ops.declaration import Value
from llmc.kernels.tolerance import assert_close
from llmc.runtime.loss import Loss
from llmc.runtime.model import LanguageModel
from llmc.specs.diagnostics import LlmcError

SMALL: dict[str, Value] = {
    "num_layers": 1, "hidden_size": 16, "vocab_size": 31, "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 24,
}  # fmt: skip
TOKENS = torch.arange(14).reshape(2, 7)
MASK = torch.tensor([[False, False, *[True] * 5], [*[True] * 6, False]])


def model(spec: str, **params: Value) -> LanguageModel:
    return llmc.load(spec, params={**SMALL, **params}, seed=1)


def with_gradients(model: LanguageModel, compute: Callable[[], Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    loss = compute()
    loss.backward()
    found = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    return {"loss": loss.detach(), **found}


def require_loss_of_logits(model: LanguageModel) -> None:
    """With left and right padding, against torch's loss of the logits."""
    target = torch.where(MASK[:, 1:] & MASK[:, :-1], TOKENS[:, 1:], -100).flatten()
    ours = with_gradients(model, lambda: cast("Tensor", model.loss(TOKENS, attention_mask=MASK)))
    logits = lambda: cast("Tensor", model(TOKENS, attention_mask=MASK))[:, :-1].flatten(0, 1)  # noqa: E731
    expected = with_gradients(model, lambda: functional.cross_entropy(logits(), target))
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(name, ours[name], value, tolerance=1e-5)


@pytest.mark.parametrize(
    ("spec", "head"),
    [("llama", (1.0, None)), ("gemma2", (1.0, 30.0)), ("granite", (1 / 16, None)), ("mixtral", (1.0, None))],
)
def test_the_head_is_taken_over(spec: str, head: tuple[float, float | None]) -> None:
    found = model(spec, **({"num_layers": 2} if spec == "gemma2" else {}))
    fused = found.program.training.loss
    assert fused is not None
    assert (fused.head.factor, fused.head.site.fields["softcap"]) == head
    require_loss_of_logits(found)


def doubled(module: nn.Module, given: object, output: Tensor) -> Tensor:
    return output * 2.0


@pytest.mark.parametrize("what", ["hook", "replaced", "bias"])
def test_a_head_that_is_not_the_plain_layer_runs(what: str) -> None:
    """A loss that went past it would be another number."""
    found = model("llama")
    plain = cast("Tensor", found.loss(TOKENS)).detach()
    head = found.get_submodule("lm_head")
    if what == "hook":
        head.register_forward_hook(doubled)  # type: ignore[arg-type]
    else:
        found.lm_head = nn.Linear(16, 31, bias=what == "bias")
    require_loss_of_logits(found)
    assert abs(float(cast("Tensor", found.loss(TOKENS)).detach() - plain)) > 1e-3


def test_target_and_options() -> None:
    found = model("llama")
    target = torch.full_like(TOKENS, -100)
    target[0, 2] = 5
    logits = cast("Tensor", found(TOKENS))[0, 2]
    given: dict[str, Any] = {"label_smoothing": 0.1, "reduction": "sum"}
    ours = found.loss(TOKENS, target, **given)
    assert_close("loss", cast("Tensor", ours), functional.cross_entropy(logits[None], torch.tensor([5]), **given))
    nothing = cast("Tensor", found.loss(TOKENS, torch.full_like(TOKENS, -100)))
    assert float(nothing.detach()) == 0.0


def test_what_has_no_loss() -> None:
    small = {name: value for name, value in SMALL.items() if name != "num_kv_heads"}
    classifier = llmc.load("bert_classifier", params=small, seed=1)
    with pytest.raises(LlmcError, match="E0811"):
        classifier.loss(TOKENS)
    found = model("llama")
    with pytest.raises(LlmcError, match="E0811"):
        found(TOKENS, cache=found.new_cache(2, 16), loss=Loss(target=TOKENS))
