"""The definition of `ternary_linear`, and of what is fused with it: ternary weights and int8 activations, both rounded
on the fly (BitNet b1.58)."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportIncompatibleMethodOverride=false
from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from ..norm.reference import add_rms_norm, rms_norm
from ..pointwise.reference import gated_activation_packed
from ..record import called_with, shared
from .fields import (
    AddRmsNormTernaryProjection,
    Projection,
    RmsNormTernaryProjection,
    Ternary,
    TernaryLinear,
    TernaryProjection,
)

SMALLEST = 1e-5
"""Least mean or largest magnitude that a scale is made of."""


class _Rounded(torch.autograd.Function):
    """The rounded value forward, the gradient as it comes backward: the straight-through estimator (Bengio 2013)."""

    @staticmethod
    def forward(ctx: object, _value: Tensor, rounded: Tensor) -> Tensor:
        return rounded

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _straight_through(value: Tensor, rounded: Tensor) -> Tensor:
    if not (torch.is_grad_enabled() and value.requires_grad):
        return rounded
    return cast("Tensor", _Rounded.apply(value, rounded))


def ternary_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """-1, 0 or 1 for each weight, and their scale `mean(|w|)` (Ma et al. 2024, eqs. 1 to 3), as 1 / scale.

    weight `[O, I]` -> ternary `[O, I]` and `[]`, float32 (float64 for float64 input).
    """
    wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    inverse = 1.0 / wide.abs().mean().clamp(min=SMALLEST)
    return (wide * inverse).round().clamp(-1, 1), inverse


def quantised_activation(x: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Whole numbers of `bits` bits for each token, and what they were multiplied by.

    x `[..., I]` -> `[..., I]` and `[..., 1]`, float32 (float64 for float64 input).
    """
    wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    largest = 2 ** (bits - 1) - 1
    factor = largest / wide.abs().amax(-1, keepdim=True).clamp(min=SMALLEST)
    return (wide * factor).round().clamp(-largest - 1, largest), factor


@called_with(TernaryLinear)
def ternary_linear(given: TernaryLinear) -> Tensor:
    """`quantised(x) @ ternary(weight).T + bias`, both scaled back first, as transformers' `AutoBitLinear`.

    x `[..., I]`, weight `[O, I]`, bias `[O]` of one dtype -> `[..., O]`. `activation_bits` null leaves x as it is.
    Gradients pass both roundings as if they were not there.
    """
    return ternary_projection(x=given.x, **shared(given, Ternary))


@called_with(TernaryProjection)
def ternary_projection(given: TernaryProjection) -> Tensor:
    """Several ternary linears of one x, whose matrices of `parts` rows stand in one weight, each with its own scale.

    x `[..., I]`, weight `[O, I]` -> `[..., O]`, or with `kind` `activation(g) * u` of its halves. `parts` null: one.
    """
    x, parts = given.x, given.parts
    rounded = [_rounded_weight(matrix) for matrix in matrices_of(given.weight, parts)]
    if given.activation_bits is not None:
        whole, factor = quantised_activation(x, given.activation_bits)
        x = _straight_through(x, (whole / factor).to(x.dtype))
    out = functional.linear(x, rounded[0] if parts is None else torch.cat(rounded), given.bias)
    return out if given.kind is None else gated_activation_packed(x=out, kind=given.kind)


def matrices_of(weight: Tensor, parts: Sequence[int] | None) -> tuple[Tensor, ...]:
    """The matrices of `parts` rows that stand in a weight; null: it is one."""
    return (weight,) if parts is None else cast("tuple[Tensor, ...]", weight.split(list(parts)))


def _rounded_weight(weight: Tensor) -> Tensor:
    """The weight that a rounded one stands for, of the same dtype."""
    ternary, inverse = ternary_weight(weight)
    return _straight_through(weight, (ternary / inverse).to(weight.dtype))


@called_with(RmsNormTernaryProjection)
def rms_norm_ternary_projection(given: RmsNormTernaryProjection) -> Tensor:
    """`ternary_projection(rms_norm(x))`. x `[..., I]`, norm_weight `[I]`."""
    normal = rms_norm(x=given.x, weight=given.norm_weight, eps=given.eps, weight_offset=given.weight_offset)
    return ternary_projection(x=normal, **shared(given, Projection))


@called_with(AddRmsNormTernaryProjection)
def add_rms_norm_ternary_projection(given: AddRmsNormTernaryProjection) -> tuple[Tensor, Tensor]:
    """`rms_norm_ternary_projection` of `residual + delta`, and that sum."""
    normal, total = add_rms_norm(
        delta=given.delta,
        residual=given.residual,
        weight=given.norm_weight,
        eps=given.eps,
        weight_offset=given.weight_offset,
    )
    return ternary_projection(x=normal, **shared(given, Projection)), total
