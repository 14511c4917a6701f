"""Fills every tensor of a reference so that a wrong computation shows: default initialisation is nearly blind."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import torch
from torch import nn


def randomise(
    model: nn.Module, *, seed: int, embedding_std: float, bias_std: float, derived: tuple[str, ...] = ()
) -> None:
    """Matrices keep the rms of their input, so that logits and attention scores have about unit size; nothing is zero.

    A tied embedding is the output matrix as well, so it gets the scale of that. Norm weights are 1 ± 0.3.
    Buffers whose names end in `derived` follow from the config and stay as they are.
    """
    generator = torch.Generator().manual_seed(seed)
    owners = {id(parameter): module for module in model.modules() for parameter in module.parameters(recurse=False)}
    is_tied = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            owner = owners[id(parameter)]
            if parameter.dim() == 1 or name.endswith("proj_bias"):
                is_norm_weight = name.endswith("weight")
                parameter.copy_(1 + 0.3 * noise if is_norm_weight else bias_std * noise)
            elif isinstance(owner, nn.Embedding) and id(parameter) not in is_tied:
                parameter.copy_(embedding_std * noise)
            else:
                parameter.copy_(noise * _fan_in(owner, parameter) ** -0.5)
        saved = model.state_dict().keys()
        for name, buffer in model.named_buffers():
            if name in saved and buffer.is_floating_point() and not name.endswith(derived):
                buffer.copy_(bias_std * torch.randn(buffer.shape, generator=generator))


IN_OUT = ("Conv1D", "GptOssExperts", "Llama4TextExperts")
"""Classes whose weights are `x @ weight`."""


def _fan_in(owner: nn.Module, parameter: nn.Parameter) -> int:
    """How many numbers each output sums up."""
    kind = type(owner).__name__
    if kind in IN_OUT:
        return parameter.shape[-2]
    return parameter.shape[-1 if kind.endswith("Experts") else 1]
