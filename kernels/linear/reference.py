"""The definitions of `linear`, and of a projection with its gated activation."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ..pointwise.reference import ActivationKind, gated_activation_packed


def linear(*, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`. x `[..., I]`, weight `[O, I]`, bias `[O]` -> `[..., O]`, all of one dtype."""
    return functional.linear(x, weight, bias)


def gated_linear(*, x: Tensor, weight: Tensor, bias: Tensor | None = None, kind: ActivationKind) -> Tensor:
    """`activation(g) * u` with `g, u` the halves of `linear(x)`. x `[..., I]`, weight `[2F, I]` -> `[..., F]`."""
    return gated_activation_packed(x=linear(x=x, weight=weight, bias=bias), kind=kind)
