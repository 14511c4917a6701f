"""Linear layers and gated ones on packed weights: for each format the product, in Triton and in torch."""

# pyright: basic
from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from ..kernel import Request
from ..pointwise import triton_activation
from ..pointwise.reference import ActivationKind, gated_activation_packed
from ..ternary.packed_in_torch import ternary_linear as ternary_linear_in_torch
from ..ternary.triton_ternary import WIDEST, ternary_linear, ternary_projection
from .reference import linear
from .triton_int4 import int4_linear
from .triton_int8 import int8_linear
from .triton_pack import dequantised

Product = Callable[..., Tensor]


def serves(request: Request) -> str | None:
    """None, or why packed weights cannot be multiplied."""
    if request.dtype == "float64":
        return "sums are float32"
    width = request.shapes["residual" if "residual" in request.shapes else "x"][-1]
    if request.format == "ternary" and not (isinstance(width, int) and width <= WIDEST):
        return f"a row of {width} features is wider than {WIDEST}"
    return None


def _both(product: Product, activation: Product = gated_activation_packed) -> tuple[Product, Product]:
    """`linear` and `gated_linear` of the reference, whose weight the product takes packed."""

    def packed_linear(*, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return product(x=x, weight=weight, bias=bias)

    def packed_gated_linear(*, x: Tensor, weight: Tensor, bias: Tensor | None = None, kind: ActivationKind) -> Tensor:
        return activation(x=product(x=x, weight=weight, bias=bias), kind=kind)

    return packed_linear, packed_gated_linear


def _in_torch(group: int) -> Product:
    def product(*, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return linear(x=x, weight=dequantised(weight, x.shape[-1], group).to(x.dtype), bias=bias)

    return product


def ternary_gated(*, x: Tensor, weight: Tensor, bias: Tensor | None = None, kind: ActivationKind) -> Tensor:
    """`gated_linear` of the reference, the gate in the launch of the product."""
    return ternary_projection(x=x, weight=weight, bias=bias, kind=kind)


int8, int8_gated = _both(int8_linear, triton_activation.gated_activation_packed)
int4, int4_gated = _both(int4_linear, triton_activation.gated_activation_packed)
int4_128, int4_128_gated = _both(partial(int4_linear, group=128), triton_activation.gated_activation_packed)
ternary, _ = _both(ternary_linear)
int8_torch, int8_gated_torch = _both(_in_torch(1))
int4_torch, int4_gated_torch = _both(_in_torch(32))
int4_128_torch, int4_128_gated_torch = _both(_in_torch(128))
ternary_torch, ternary_gated_torch = _both(ternary_linear_in_torch)
