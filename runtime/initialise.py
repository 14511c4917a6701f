"""Fills a model's parameters afresh, as each op declares, from one seed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..compiler.ops.declaration import Init, ParameterSpec


def initialise(parameters: Mapping[str, nn.Parameter], specs: Mapping[str, ParameterSpec], seed: int) -> None:
    """Fill every parameter in place. The same seed gives the same values, whatever order or dtype."""
    with torch.no_grad():
        for index, (path, spec) in enumerate(specs.items()):
            if path in parameters:
                generator = torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**63)
                parameters[path].copy_(fresh(spec.shape, spec.init, generator))


def fresh(shape: tuple[int, ...], init: Init, generator: torch.Generator) -> Tensor:
    """One float32 tensor filled as `init` says. `log_arange` is the S4D-real start: row-wise log(1 … N)."""
    match init.kind:
        case "normal":
            return torch.empty(shape).normal_(0.0, init.value, generator=generator)
        case "uniform":
            return torch.empty(shape).uniform_(-init.value, init.value, generator=generator)
        case "zeros":
            return torch.zeros(shape)
        case "ones":
            return torch.ones(shape)
        case "constant":
            return torch.full(shape, init.value)
        case "log_arange":
            return torch.arange(1, shape[-1] + 1).log().expand(shape).clone()
