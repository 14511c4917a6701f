"""Packed matrices (G6): ternary, 8 and 4 bits a weight, for one token and for many, beside 16 bits in cuBLAS.

The floor of few tokens are the packed bytes. The rival multiplies what the packed weights stand for, so that both give
the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import cast

from torch import Tensor
from torch.nn import functional

from ....kernels.kernel import resolve
from ....kernels.linear.triton_pack import GROUPS, dequantised
from ....kernels.registry import kernels_for
from ....kernels.ternary import triton_pack
from ....kernels.ternary.reference import quantised_activation
from .beside_reference import beside_reference
from .case import Builder, Case, Sizes, picked

SHAPES = ((4096, 4096), (14336, 4096), (4096, 14336))
GOALS: Mapping[str, str] = {"ternary": ">= 65 %, >= 5x cuBLAS", "int8": ">= 80 %", "int4": ">= 80 %"}


def cases(sizes: Sizes) -> Iterator[Builder]:
    """All measurements of the family."""
    for size_out, size_in in SHAPES:
        yield partial(_packed, sizes, "ternary", 1, size_out, size_in)
    for format in ("int8", "int4", "int4_128"):
        yield partial(_packed, sizes, format, 1, *SHAPES[1])
    for format in ("ternary", "int8", "int4"):
        for tokens in (16, 2048):
            yield partial(_packed, sizes, format, tokens, *SHAPES[1])
    for format in ("ternary", "int8", "int4", "int4_128"):
        yield partial(_gated, sizes, format)
    for op in (
        "ternary_linear",
        "ternary_projection",
        "rms_norm_ternary_projection",
        "add_rms_norm_ternary_projection",
    ):
        yield partial(_projection, sizes, op)


def _packed(sizes: Sizes, format: str, tokens: int, size_out: int, size_in: int) -> Case:
    size_out, size_in, tokens = sizes.pick(size_out, 40), sizes.pick(size_in, 256), min(tokens, sizes.pick(tokens, 20))
    x, weight = sizes.randn(1, tokens, size_in), sizes.randn(size_out, size_in) * size_in**-0.5
    operands: dict[str, object] = {"x": x, "weight": weight}
    name, function = picked("linear", "decode" if tokens == 1 else "prefill", sizes, operands, format=format)
    kernel = next(one for one in kernels_for("linear") if one.name == name)
    packed = cast("Tensor", resolve(kernel.prepares["weight"])(weight))
    seen, plain = _meant(x, packed, format)
    is_long = tokens > 16
    return Case(
        target="G6", name=f"linear, {format}, {tokens} token{'s' * (tokens > 1)}, {size_out} x {size_in}", kernel=name,
        ours=lambda: function(x=x, weight=packed), bytes=float(packed.nbytes), flops=2.0 * tokens * weight.numel(),
        bound="matmul" if is_long else "bandwidth", rivals={"cuBLAS": lambda: functional.linear(seen, plain)},
        goal=">= 1x cuBLAS" if is_long else GOALS[format.removesuffix("_128")],
    )  # fmt: skip


def _gated(sizes: Sizes, format: str) -> Case:
    """Gate and up with SwiGLU for one token; the rival reads 16 bits a weight."""
    inner, size_in = sizes.pick(14336, 20), sizes.pick(4096, 256)
    weight = sizes.randn(2 * inner, size_in) * size_in**-0.5
    operands: dict[str, object] = {"x": sizes.randn(1, 1, size_in), "weight": weight, "kind": "silu"}
    return beside_reference(
        sizes, "linear:gated_linear", "decode", operands, format=format, note=f", {format}", compares=False, target="G6"
    )


def _projection(sizes: Sizes, op: str) -> Case:
    """A layer of a model that was trained ternary, with what is fused into it; the rival computes in 16 bits."""
    size_out, size_in = sizes.pick(6912, 20), sizes.pick(2560, 64)
    rows = ("delta", "residual") if op.startswith("add") else ("x",)
    operands: dict[str, object] = {
        **{name: sizes.randn(1, 1, size_in) for name in rows}, "weight": sizes.randn(size_out, size_in),
        "activation_bits": 8,
    }  # fmt: skip
    if "norm" in op:
        operands |= {"norm_weight": sizes.randn(size_in), "eps": 1e-5}
    return beside_reference(sizes, f"ternary:{op}", "decode", operands, target="G6")


def _meant(x: Tensor, packed: Tensor, format: str) -> tuple[Tensor, Tensor]:
    """Activations and weight of x's dtype, as the kernel sees them."""
    if format != "ternary":
        return x, dequantised(packed, x.shape[-1], GROUPS.get(format, 1)).to(x.dtype)
    whole, factor = quantised_activation(x, 8)
    ternary, scale = triton_pack.unpack(packed, x.shape[-1])
    return (whole / factor).to(x.dtype), (ternary * scale[:, None]).to(x.dtype)
