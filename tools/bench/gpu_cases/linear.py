"""Matrices of one token: 16-bit ones beside cuBLAS, and what a norm costs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from .beside_reference import beside_reference
from .case import Builder, Case, Sizes, picked


def cases(sizes: Sizes) -> Iterator[Builder]:
    """All measurements of the family."""
    for size_out, size_in in ((4096, 4096), (14336, 4096), (4096, 14336)):
        yield partial(_linear, sizes, sizes.pick(size_out, 40), sizes.pick(size_in, 48))
    yield partial(_gated, sizes, sizes.pick(14336, 40), sizes.pick(4096, 48))
    yield partial(_few, sizes, sizes.pick(8, 2))
    for op in ("rms_norm_linear", "add_rms_norm_linear"):
        yield partial(_normed, sizes, op)
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


def _few(sizes: Sizes, rows: int) -> Case:
    """One token of each of some rows: the weight is read once for all of them."""
    size_out, size_in = sizes.pick(14336, 40), sizes.pick(4096, 48)
    operands: dict[str, object] = {
        "x": sizes.randn(rows, 1, size_in),
        "weight": sizes.randn(size_out, size_in) * size_in**-0.5,
    }
    return beside_reference(sizes, "linear:linear", "decode", operands, target="G1", note=f", {rows} rows")


def _normed(sizes: Sizes, op: str) -> Case:
    """The norm, with or without the residual's sum, in the launch of the projection."""
    size_out, size_in = sizes.pick(6144, 40), sizes.pick(4096, 48)
    rows = ("delta", "residual") if op.startswith("add") else ("x",)
    operands: dict[str, object] = {
        **{name: sizes.randn(1, 1, size_in) for name in rows}, "norm_weight": sizes.randn(size_in), "eps": 1e-5,
        "weight": sizes.randn(size_out, size_in) * size_in**-0.5,
    }  # fmt: skip
    return beside_reference(sizes, f"linear:{op}", "decode", operands, target="G1")


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
