"""The definitions of `linear`, of a projection with its gated activation, and of both after an RMS norm."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ..norm.reference import add_rms_norm, rms_norm
from ..pointwise.reference import ActivationKind, gated_activation_packed


def linear(*, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`. x `[..., I]`, weight `[O, I]`, bias `[O]` -> `[..., O]`, all of one dtype."""
    return functional.linear(x, weight, bias)


def gated_linear(*, x: Tensor, weight: Tensor, bias: Tensor | None = None, kind: ActivationKind) -> Tensor:
    """`activation(g) * u` with `g, u` the halves of `linear(x)`. x `[..., I]`, weight `[2F, I]` -> `[..., F]`."""
    return gated_activation_packed(x=linear(x=x, weight=weight, bias=bias), kind=kind)


def rms_norm_linear(
    *,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    eps: float,
    weight_offset: float = 0.0,
    kind: ActivationKind | None = None,
) -> Tensor:
    """`linear(rms_norm(x))`, or with `kind` `gated_linear` of it. x `[..., I]`, weight `[O, I]`, norm_weight `[I]`."""
    normal = rms_norm(x=x, weight=norm_weight, eps=eps, weight_offset=weight_offset)
    return projected(x=normal, weight=weight, bias=bias, kind=kind)


def add_rms_norm_linear(
    *,
    delta: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    eps: float,
    weight_offset: float = 0.0,
    kind: ActivationKind | None = None,
) -> tuple[Tensor, Tensor]:
    """`rms_norm_linear` of `residual + delta`, and that sum."""
    normal, total = add_rms_norm(
        delta=delta, residual=residual, weight=norm_weight, eps=eps, weight_offset=weight_offset
    )
    return projected(x=normal, weight=weight, bias=bias, kind=kind), total


def projected(*, x: Tensor, weight: Tensor, bias: Tensor | None = None, kind: ActivationKind | None = None) -> Tensor:
    """`linear`, or with `kind` `gated_linear`."""
    if kind is None:
        return linear(x=x, weight=weight, bias=bias)
    return gated_linear(x=x, weight=weight, bias=bias, kind=kind)
