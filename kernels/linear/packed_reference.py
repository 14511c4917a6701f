"""The definition of what packed formats make of activations: both sides of a product are whole numbers."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..ternary.reference import quantised_activation

BLOCK = 32
"""Columns that share a scale."""


def rounded_activation(x: Tensor, format: str) -> Tensor:
    """x `[..., I]` as kernels in C multiply it with weights in `format`, in the same float32 steps; float64.

    Beside ternary weights each row has one scale, beside the others each `BLOCK` columns have one.
    """
    if format == "ternary":
        whole, factor = quantised_activation(x.float(), 8)
        return whole.double() * factor.reciprocal().double()
    width = x.shape[-1]
    padded: Tensor = functional.pad(x.float(), (0, -width % BLOCK))
    blocks = padded.view(*x.shape[:-1], padded.shape[-1] // BLOCK, BLOCK)
    most = blocks.abs().amax(-1, keepdim=True)
    factor = torch.where(most > 0, torch.full_like(most, 127.0) / most, torch.zeros_like(most))
    whole = (blocks * factor).round().double()
    return (whole * (most / 127).double()).view(padded.shape)[..., :width]
