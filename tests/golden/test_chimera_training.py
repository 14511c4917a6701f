"""What chimera gives in training beside its logits, and that inference does not compute it."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import torch
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

import llmc
from llmc.runtime.model import LanguageModel

from ..switches import only_with_passes
from .conftest import Goldens
from .families import by_name
from .reference import Golden
from .running import named

NAMES = {"logits", "balance_loss", "z_loss", "utilisation", "lambdas"}


def trained(goldens: Goldens) -> tuple[Golden, LanguageModel, list[torch.Tensor]]:
    """The golden, our model in training mode, and the reference's router logits `[B * T, E]` of each layer."""
    golden = goldens(by_name("chimera"))
    seen: list[torch.Tensor] = []

    def keep(_module: object, _inputs: object, out: tuple[torch.Tensor, ...]) -> None:
        seen.append(out[0])

    handles = [
        layer.mlp.gate.register_forward_hook(keep)
        for layer in golden.reference.model.layers  # type: ignore[union-attr]
    ]
    with torch.no_grad():
        golden.reference(golden.tokens)  # type: ignore[operator]
    for handle in handles:
        handle.remove()
    return golden, llmc.load(golden.folder).train(), seen


def test_losses_equal_those_of_the_reference(goldens: Goldens) -> None:
    golden, model, router_logits = trained(goldens)
    outputs = named(model(golden.tokens))
    assert outputs.keys() == NAMES
    expected = load_balancing_loss_func(tuple(router_logits), 5, 2)  # pyright: ignore[reportArgumentType]
    assert abs(float(outputs["balance_loss"]) - float(expected)) < 1e-5
    z = torch.stack(router_logits).logsumexp(-1).square().mean()
    assert abs(float(outputs["z_loss"]) - float(z)) < 1e-4


def test_padding_takes_no_part(goldens: Goldens) -> None:
    golden, model, _ = trained(goldens)
    alone = named(model(golden.tokens[:1, :20]))
    mask = torch.zeros(2, golden.tokens.shape[1], dtype=torch.bool)
    mask[0, :20] = True
    padded = named(model(golden.tokens, attention_mask=mask))
    for name in NAMES - {"logits"}:
        assert torch.allclose(padded[name], alone[name], atol=1e-6), name


def test_utilisation_and_lambdas_are_readable(goldens: Goldens) -> None:
    golden, model, router_logits = trained(goldens)
    outputs = named(model(golden.tokens))
    for layer, logits in enumerate(router_logits):
        picked = logits.topk(2).indices.flatten().bincount(minlength=5) / (2 * len(logits))
        assert torch.allclose(outputs["utilisation"][layer], picked.float())
        attention = golden.reference.model.layers[layer].self_attn  # type: ignore[union-attr]
        first, second = (
            torch.exp((getattr(attention, f"lambda_q{i}") * getattr(attention, f"lambda_k{i}")).sum()) for i in (1, 2)
        )
        assert torch.allclose(outputs["lambdas"][layer], first - second + attention.lambda_init)


def test_the_loss_moves_the_routers(goldens: Goldens) -> None:
    golden, model, _ = trained(goldens)
    named(model(golden.tokens))["balance_loss"].sum().backward()
    for name, parameter in model.named_parameters():
        if name.endswith("gate.weight"):
            assert parameter.grad is not None
            assert float(parameter.grad.abs().max()) > 0


def test_inference_neither_computes_nor_gives_it(goldens: Goldens) -> None:
    only_with_passes()
    _, model, _ = trained(goldens)
    assert set(model.program.module.outputs) == {"logits"}
    ops = {site.op.name for lowered in model.program.module.definitions.values() for _, site in lowered.sites()}
    assert not ops & {"router_loss", "watch"}
    assert isinstance(model.eval()(torch.tensor([[1, 2, 3]])), torch.Tensor)
