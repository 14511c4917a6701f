"""The reference's ternary layers on packed weights, in torch: for a GPU that the Triton kernels do not compile for."""

from __future__ import annotations

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
from .reference import quantised_activation
from .triton_pack import unpack


@called_with(TernaryLinear)
def ternary_linear(given: TernaryLinear) -> Tensor:
    """The reference's `ternary_linear` on a packed weight, in torch."""
    x = given.x
    ternary, scales = unpack(given.weight, x.shape[-1])
    if given.activation_bits is not None:
        whole, factor = quantised_activation(x, given.activation_bits)
        x = (whole / factor).to(x.dtype)
    return functional.linear(x, (ternary * scales[:, None]).to(x.dtype), given.bias)


@called_with(TernaryProjection)
def ternary_projection(given: TernaryProjection) -> Tensor:
    """The reference's `ternary_projection` on a packed weight, which knows its parts, in torch."""
    out = ternary_linear(x=given.x, **shared(given, Ternary))
    return out if given.kind is None else gated_activation_packed(x=out, kind=given.kind)


@called_with(RmsNormTernaryProjection)
def rms_norm_ternary_projection(given: RmsNormTernaryProjection) -> Tensor:
    """As `reference.rms_norm_ternary_projection`."""
    normal = rms_norm(x=given.x, weight=given.norm_weight, eps=given.eps, weight_offset=given.weight_offset)
    return ternary_projection(x=normal, **shared(given, Projection))


@called_with(AddRmsNormTernaryProjection)
def add_rms_norm_ternary_projection(given: AddRmsNormTernaryProjection) -> tuple[Tensor, Tensor]:
    """As `reference.add_rms_norm_ternary_projection`."""
    normal, total = add_rms_norm(
        delta=given.delta,
        residual=given.residual,
        weight=given.norm_weight,
        eps=given.eps,
        weight_offset=given.weight_offset,
    )
    return ternary_projection(x=normal, **shared(given, Projection)), total
