"""Experts in Triton: pair by pair for few tokens, as grouped matrix products for many and for training."""

# pyright: basic
from __future__ import annotations

import math

import torch
from torch import Tensor

from ..kernel import Request
from ..pointwise.reference import ActivationKind
from .reference import Packing
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


def experts(
    *,
    x: Tensor,
    weights: Tensor,
    experts: Tensor,
    down_proj: Tensor,
    gate_proj: Tensor | None = None,
    up_proj: Tensor | None = None,
    gate_up_proj: Tensor | None = None,
    gate_proj_bias: Tensor | None = None,
    up_proj_bias: Tensor | None = None,
    gate_up_proj_bias: Tensor | None = None,
    down_proj_bias: Tensor | None = None,
    activation: ActivationKind = "silu",
    packing: Packing = "separate",
    layout: str = "out_in",
    limit: float | None = None,
    up_offset: float = 0.0,
    weighs: str = "output",
) -> Tensor:
    """Arguments and result are those of the reference.

    Where gradients are wanted, products are grouped and keep what those need. Else, up to one pick for each expert, or
    `FEW`, most experts have one token at most, and weights are read for each pick.
    """
    is_packed = gate_up_proj is not None
    up = gate_up_proj if is_packed else up_proj
    assert up is not None
    biases = (gate_proj_bias, gate_up_proj_bias if is_packed else up_proj_bias, down_proj_bias)
    trained = (x, weights, gate_proj, up, down_proj, *biases)
    if torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in trained):
        run = experts_to_train
    else:
        run = experts_of_few if experts.numel() <= max(FEW, down_proj.shape[0]) else experts_of_many
    return run(
        x, weights, experts, gate_proj, up, down_proj, *biases, activation, packing if is_packed else "separate",
        layout, math.inf if limit is None else limit, up_offset, weighs,
    )  # fmt: skip
