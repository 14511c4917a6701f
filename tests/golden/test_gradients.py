"""In training, the gradient of the loss with respect to every parameter equals the reference's."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from transformers.core_model_loading import revert_weight_conversion

import llmc
from llmc.runtime.model import LanguageModel
from llmc.runtime.weights import export_parameters

from .comparison import rms
from .reference import Golden, outputs_of
from .running import named, run_program
from .saved_folders import split_by_width

RELATIVE = 1e-4
INERT = 1e-5
"""A gradient this small beside the largest one is noise: a bias on keys without RoPE moves nothing."""


def loss_of(outputs: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """Cross entropy of the next token; for an encoder, of the output's features with the token's class among them."""
    losses: list[Tensor] = []
    for value in outputs.values():
        classes = value.flatten(0, -2)
        if value.dim() == 3 and value.shape[1] == tokens.shape[1]:
            classes, targets = value[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
        else:
            targets = tokens[:, 0]
        losses.append(functional.cross_entropy(classes, targets % classes.shape[-1]))
    return torch.stack(losses).sum()


def our_gradients(model: LanguageModel, golden: Golden) -> tuple[float, dict[str, Tensor]]:
    """The loss, and gradients by the names of the checkpoint."""
    model.zero_grad()
    outputs = named(model(golden.tokens, **golden.inputs))
    loss = loss_of({name: outputs[name] for name in golden.expected}, golden.tokens)
    loss.backward()
    found: dict[str, Tensor] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        assert (parameter.grad is not None) == parameter.requires_grad, path
        found[path] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return float(loss.detach()), export_parameters(model.program.weights, found, model.layout)


def reference_gradients(golden: Golden) -> tuple[float, dict[str, Tensor]]:
    reference = golden.reference
    reference.train()
    reference.zero_grad()
    answer = reference(golden.tokens, **golden.inputs)
    loss = loss_of(outputs_of(answer, golden.family.spec), golden.tokens)
    loss.backward()
    reference.eval()
    gradients = {name: parameter.grad for name, parameter in reference.named_parameters() if parameter.grad is not None}
    reference.zero_grad()
    return float(loss.detach()), split_by_width(revert_weight_conversion(reference, gradients), gradients)


def test_gradients_equal_the_reference(golden: Golden) -> None:
    model = llmc.load(golden.folder).train()
    loss, ours = our_gradients(model, golden)
    expected_loss, expected = reference_gradients(golden)
    assert abs(loss - expected_loss) < 1e-5
    assert ours.keys() >= expected.keys()
    largest = max(rms(gradient) for gradient in expected.values())
    for name, gradient in expected.items():
        assert rms(ours[name] - gradient) <= RELATIVE * rms(gradient) + INERT * largest, name


def test_gradients_after_the_program_ran(golden: Golden) -> None:
    """The Program makes parameters views of fused storage: training goes on as before, and both see each step."""
    model = llmc.load(golden.folder).train()
    loss, before = our_gradients(model, golden)
    run_program(model, golden.tokens, **golden.inputs)
    again, after = our_gradients(model, golden)
    assert loss == again
    for name, gradient in before.items():
        assert torch.equal(gradient, after[name]), name
    torch.optim.SGD(model.parameters(), lr=0.05).step()
    outputs = named(model(golden.tokens, **golden.inputs))
    stepped = {name: outputs[name] for name in golden.expected}
    assert float(loss_of(stepped, golden.tokens).detach()) < loss - 1e-3
    for name, value in run_program(model, golden.tokens, **golden.inputs).items():
        assert (value - stepped[name]).abs().max() < 2e-4, name
