"""Experts in Triton."""

# pyright: basic
from __future__ import annotations

import math

from torch import Tensor

from ..kernel import Request
from ..pointwise.reference import ActivationKind
from .reference import Packing
from .triton_experts_decode import experts_of_few


def serves(request: Request) -> str | None:
    """None, or why the experts cannot run: float64 sums, or many tokens."""
    if request.dtype == "float64":
        return "sums are float32"
    if request.phase != "decode":
        return "it is for few tokens"
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
    """Arguments and result are those of the reference."""
    is_packed = gate_up_proj is not None
    up = gate_up_proj if is_packed else up_proj
    assert up is not None
    return experts_of_few(
        x, weights, experts, gate_proj, up, down_proj, gate_proj_bias, gate_up_proj_bias if is_packed else up_proj_bias,
        down_proj_bias, activation, packing if is_packed else "separate", layout,
        math.inf if limit is None else limit, up_offset, weighs,
    )  # fmt: skip
