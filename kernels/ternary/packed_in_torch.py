"""The reference's ternary layers on packed weights, in torch: for a GPU that the Triton kernels do not compile for."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from ..norm.reference import add_rms_norm, rms_norm
from ..pointwise.reference import ActivationKind, gated_activation_packed
from .reference import quantised_activation
from .triton_pack import unpack


def ternary_linear(*, x: Tensor, weight: Tensor, bias: Tensor | None = None, activation_bits: int | None = 8) -> Tensor:
    """The reference's `ternary_linear` on a packed weight, in torch."""
    ternary, scales = unpack(weight, x.shape[-1])
    if activation_bits is not None:
        whole, factor = quantised_activation(x, activation_bits)
        x = (whole / factor).to(x.dtype)
    return functional.linear(x, (ternary * scales[:, None]).to(x.dtype), bias)


def ternary_projection(
    *,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation_bits: int | None = 8,
    parts: Sequence[int] | None = None,
    kind: ActivationKind | None = None,
) -> Tensor:
    """The reference's `ternary_projection` on a packed weight, which knows its parts, in torch."""
    out = ternary_linear(x=x, weight=weight, bias=bias, activation_bits=activation_bits)
    return out if kind is None else gated_activation_packed(x=out, kind=kind)


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
    """As `reference.rms_norm_ternary_projection`."""
    normal = rms_norm(x=x, weight=norm_weight, eps=eps, weight_offset=weight_offset)
    return ternary_projection(x=normal, weight=weight, bias=bias, activation_bits=activation_bits, kind=kind)


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
    """As `reference.add_rms_norm_ternary_projection`."""
    normal, total = add_rms_norm(
        delta=delta, residual=residual, weight=norm_weight, eps=eps, weight_offset=weight_offset
    )
    return ternary_projection(x=normal, weight=weight, bias=bias, activation_bits=activation_bits, kind=kind), total
