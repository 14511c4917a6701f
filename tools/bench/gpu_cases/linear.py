"""Matrices of one token: 16-bit ones beside cuBLAS, and what a norm costs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from .case import Builder, Case, Sizes, picked


def cases(sizes: Sizes) -> Iterator[Builder]:
    """All measurements of the family."""
    for size_out, size_in in ((4096, 4096), (14336, 4096), (4096, 14336)):
        yield partial(_linear, sizes, sizes.pick(size_out, 40), sizes.pick(size_in, 48))
    yield partial(_gated, sizes, sizes.pick(14336, 40), sizes.pick(4096, 48))
    yield partial(_norm, sizes, sizes.pick(8192, 3), sizes.pick(4096, 50))


def _linear(sizes: Sizes, size_out: int, size_in: int) -> Case:
    x, weight = sizes.randn(1, 1, size_in), sizes.randn(size_out, size_in) * size_in**-0.5
    operands: dict[str, object] = {"x": x, "weight": weight}
    name, function = picked("linear", "decode", sizes, operands)
    return Case(
        target="G1", name=f"linear, 1 token, {size_out} x {size_in}", kernel=name, ours=lambda: function(**operands),
        bytes=float(weight.nbytes), flops=2.0 * weight.numel(), bound="bandwidth",
        rivals={"cuBLAS": lambda: functional.linear(x, weight)}, goal=">= 90 %",
    )  # fmt: skip


def _gated(sizes: Sizes, inner: int, size_in: int) -> Case:
    x, weight = sizes.randn(1, 1, size_in), sizes.randn(2 * inner, size_in) * size_in**-0.5
    operands: dict[str, object] = {"x": x, "weight": weight, "kind": "silu"}
    name, function = picked("gated_linear", "decode", sizes, operands)

    def rival() -> Tensor:
        gate, up = functional.linear(x, weight).chunk(2, dim=-1)
        return functional.silu(gate) * up

    return Case(
        target="G1", name=f"gate and up with SwiGLU, 1 token, 2 x {inner} x {size_in}", kernel=name,
        ours=lambda: function(**operands), bytes=float(weight.nbytes), flops=2.0 * weight.numel(), bound="bandwidth",
        rivals={"cuBLAS and torch": rival}, goal=">= 90 %",
    )  # fmt: skip


def _norm(sizes: Sizes, rows: int, width: int) -> Case:
    delta, residual, weight = sizes.randn(1, rows, width), sizes.randn(1, rows, width), sizes.randn(width)
    operands: dict[str, object] = {"delta": delta, "residual": residual, "weight": weight, "eps": 1e-5}
    name, function = picked("add_rms_norm", "prefill", sizes, operands)

    def rival() -> Tensor:
        return functional.rms_norm(residual + delta, (width,), weight, 1e-5)

    return Case(
        target="G1", name=f"residual add and RMS norm, {rows} x {width}", kernel=name,
        ours=lambda: cast("tuple[Tensor, Tensor]", function(**operands)), bytes=4.0 * delta.nbytes,
        flops=float(4 * torch.numel(delta)), bound="bandwidth", rivals={"torch": rival}, goal=">= 90 %",
    )  # fmt: skip
