"""Experts in Triton: pair by pair for few tokens, as grouped matrix products for many and for training."""

# pyright: basic
from __future__ import annotations

import torch
from torch import Tensor

from ..kernel import Request
from ..record import called_with
from .fields import Experts
from .operands import Operands
from .triton_experts_decode import experts_of_few
from .triton_experts_grouped import experts_of_many
from .triton_experts_train import experts_to_train

MOST_EXPERTS = 1024
"""What a program of the dispatch compares a pick with."""
FEW = 16
"""Picks up to which an expert's weights are read for each pick, whoever shares it."""


def serves(request: Request) -> str | None:
    """None, or why the experts cannot run: float64 sums, or more experts than one program holds."""
    if request.dtype == "float64":
        return "sums are float32"
    experts = request.fields["num_experts"]
    if isinstance(experts, int) and experts > MOST_EXPERTS:
        return f"tokens are dispatched to at most {MOST_EXPERTS} experts, not {experts}"
    return None


@called_with(Experts)
def experts(given: Experts) -> Tensor:
    """Arguments and result are those of the reference.

    Where gradients are wanted, products are grouped and keep what those need. Else, up to one pick for each expert, or
    `FEW`, most experts have one token at most, and weights are read for each pick.
    """
    operands = Operands.of(given)
    if torch.is_grad_enabled() and any(isinstance(one, Tensor) and one.requires_grad for one in operands):
        return experts_to_train(operands)
    run = experts_of_few if given.experts.numel() <= max(FEW, given.down_proj.shape[0]) else experts_of_many
    return run(*operands)
