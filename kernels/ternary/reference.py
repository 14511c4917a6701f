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
from ..pointwise.reference import ActivationKind, gated_activation_packed

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


def ternary_linear(*, x: Tensor, weight: Tensor, bias: Tensor | None = None, activation_bits: int | None = 8) -> Tensor:
    """`quantised(x) @ ternary(weight).T + bias`, both scaled back first, as transformers' `AutoBitLinear`.

    x `[..., I]`, weight `[O, I]`, bias `[O]` of one dtype -> `[..., O]`. `activation_bits` null leaves x as it is.
    Gradients pass both roundings as if they were not there.
    """
    return ternary_projection(x=x, weight=weight, bias=bias, activation_bits=activation_bits)


def ternary_projection(
    *,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation_bits: int | None = 8,
    parts: Sequence[int] | None = None,
    kind: ActivationKind | None = None,
) -> Tensor:
    """Several ternary linears of one x, whose matrices of `parts` rows stand in one weight, each with its own scale.

    x `[..., I]`, weight `[O, I]` -> `[..., O]`, or with `kind` `activation(g) * u` of its halves. `parts` null: one.
    """
    rounded = [_rounded_weight(matrix) for matrix in matrices_of(weight, parts)]
    if activation_bits is not None:
        whole, factor = quantised_activation(x, activation_bits)
        x = _straight_through(x, (whole / factor).to(x.dtype))
    out = functional.linear(x, rounded[0] if parts is None else torch.cat(rounded), bias)
    return out if kind is None else gated_activation_packed(x=out, kind=kind)


def matrices_of(weight: Tensor, parts: Sequence[int] | None) -> tuple[Tensor, ...]:
    """The matrices of `parts` rows that stand in a weight; null: it is one."""
    return (weight,) if parts is None else cast("tuple[Tensor, ...]", weight.split(list(parts)))


def _rounded_weight(weight: Tensor) -> Tensor:
    """The weight that a rounded one stands for, of the same dtype."""
    ternary, inverse = ternary_weight(weight)
    return _straight_through(weight, (ternary / inverse).to(weight.dtype))


def rms_norm_ternary_projection(
    *,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    eps: float,
    weight_offset: float = 0.0,
    activation_bits: int | None = 8,
    parts: Sequence[int] | None = None,
    kind: ActivationKind | None = None,
) -> Tensor:
    """`ternary_projection(rms_norm(x))`. x `[..., I]`, norm_weight `[I]`."""
    normal = rms_norm(x=x, weight=norm_weight, eps=eps, weight_offset=weight_offset)
    return ternary_projection(
        x=normal, weight=weight, bias=bias, activation_bits=activation_bits, parts=parts, kind=kind
    )


def add_rms_norm_ternary_projection(
    *,
    delta: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    eps: float,
    weight_offset: float = 0.0,
    activation_bits: int | None = 8,
    parts: Sequence[int] | None = None,
    kind: ActivationKind | None = None,
) -> tuple[Tensor, Tensor]:
    """`rms_norm_ternary_projection` of `residual + delta`, and that sum."""
    normal, total = add_rms_norm(
        delta=delta, residual=residual, weight=norm_weight, eps=eps, weight_offset=weight_offset
    )
    out = ternary_projection(
        x=normal, weight=weight, bias=bias, activation_bits=activation_bits, parts=parts, kind=kind
    )
    return out, total
