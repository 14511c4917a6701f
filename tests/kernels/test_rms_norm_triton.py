"""RMS norm in Triton against the float64 reference: values and gradients, odd widths, strides, no rows."""

# pyright: basic
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from llmc.kernels.norm import reference
from llmc.kernels.norm.triton_rms_norm import rms_norm
from llmc.kernels.tolerance import assert_close

from .gpu import DEVICE, DTYPES


@given(
    rows=st.sampled_from([0, 1, 3, 7]),
    heads=st.integers(1, 3),
    width=st.sampled_from([3, 17, 64, 100]),
    per_head=st.booleans(),
    has_weight=st.booleans(),
    offset=st.sampled_from([0.0, 1.0]),
    dtype=st.sampled_from(DTYPES),
    is_strided=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_values_and_gradients(
    rows: int, heads: int, width: int, per_head: bool, has_weight: bool, offset: float, dtype: torch.dtype,
    is_strided: bool, seed: int,
) -> None:  # fmt: skip
    make = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, heads * width, generator=make).to(DEVICE, dtype)
    x = x.repeat_interleave(2, dim=-1)[..., ::2] if is_strided else x
    weight = torch.randn(heads * width if per_head else width, generator=make).to(DEVICE, dtype) if has_weight else None
    grad = torch.randn(rows, heads * width, generator=make).to(DEVICE, dtype)

    def run(function: object, x: Tensor, weight: Tensor | None) -> tuple[Tensor, ...]:
        inputs = [given.detach().requires_grad_() for given in (x, weight) if given is not None]
        given = dict(zip(("x", "weight"), inputs, strict=False))
        out = function(eps=1e-6, weight_offset=offset, head_dim=width, **given)  # type: ignore[operator]
        return out.detach(), *torch.autograd.grad(out, inputs, grad.to(out.dtype))

    ours = run(rms_norm, x, weight)
    exact = run(reference.rms_norm, x.double(), None if weight is None else weight.double())
    for name, actual, expected in zip(("out", "x.grad", "weight.grad"), ours, exact, strict=False):
        assert_close(name, actual, expected)
