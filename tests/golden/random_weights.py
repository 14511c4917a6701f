"""Fills every tensor of a reference so that a wrong computation shows: default initialisation is nearly blind."""

from __future__ import annotations

import torch
from torch import nn


def randomise(model: nn.Module, *, seed: int, embedding_std: float, bias_std: float) -> None:
    """Matrices keep the rms of their input (so logits and attention scores have about unit size); nothing is zero or one.

    A tied embedding is the output matrix as well, so it gets the scale of that. Norm weights are 1 ± 0.3.
    """
    generator = torch.Generator().manual_seed(seed)
    owners = {id(parameter): module for module in model.modules() for parameter in module.parameters(recurse=False)}
    is_tied = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            owner = owners[id(parameter)]
            if parameter.dim() == 1:
                is_norm_weight = name.endswith("weight")
                parameter.copy_(1 + 0.3 * noise if is_norm_weight else bias_std * noise)
            elif isinstance(owner, nn.Embedding) and id(parameter) not in is_tied:
                parameter.copy_(embedding_std * noise)
            else:
                fan_in = parameter.shape[0] if type(owner).__name__ == "Conv1D" else parameter.shape[1]
                parameter.copy_(noise * fan_in**-0.5)
