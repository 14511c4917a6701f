"""Activations as device functions, and their slopes, against torch in float64."""

# pyright: basic
from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl

from llmc.kernels.gpu.activations import activate, slope
from llmc.kernels.pointwise.reference import ActivationKind, activation
from llmc.kernels.tolerance import assert_close

from .gpu import DEVICE


@triton.jit
def _apply(p_x, p_y, p_slope, KIND: tl.constexpr, BLOCK: tl.constexpr):
    o_x = tl.arange(0, BLOCK)
    b_x = tl.load(p_x + o_x)
    tl.store(p_y + o_x, activate(b_x, KIND))
    tl.store(p_slope + o_x, slope(b_x, KIND))


@pytest.mark.parametrize("kind", ActivationKind.__args__)
def test_values_and_slopes(kind: ActivationKind) -> None:
    x = torch.linspace(-12.0, 12.0, 1024, device=DEVICE)
    y, found = torch.empty_like(x), torch.empty_like(x)
    _apply[(1,)](x, y, found, KIND=kind, BLOCK=1024)  # type: ignore[arg-type]
    exact = x.double().requires_grad_()
    expected = activation(x=exact, kind=kind)
    (gradient,) = torch.autograd.grad(expected.sum(), exact)
    assert_close(kind, y, expected)
    assert_close(f"{kind}.slope", found, gradient)
