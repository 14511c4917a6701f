"""Quantised activations in Triton equal those of the references, number by number."""

# pyright: basic
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from llmc.kernels.norm.reference import add_rms_norm, rms_norm
from llmc.kernels.norm.triton_quantise import normed_rows, quantised
from llmc.kernels.ternary.reference import quantised_activation

from .gpu import DEVICE, DTYPES


@given(
    rows=st.sampled_from([0, 1, 5]),
    width=st.sampled_from([3, 17, 100]),
    bits=st.sampled_from([4, 8]),
    has_weight=st.booleans(),
    offset=st.sampled_from([0.0, 1.0]),
    dtype=st.sampled_from(DTYPES),
    size=st.sampled_from([0.0, 1e-6, 1.0, 300.0]),
    seed=st.integers(0, 2**16),
)
def test_equals_the_reference(
    rows: int, width: int, bits: int, has_weight: bool, offset: float, dtype: torch.dtype, size: float, seed: int
) -> None:
    torch.manual_seed(seed)
    x, delta = (torch.randn(2, rows, width) * size for _ in range(2))
    x, delta = x.to(DEVICE, dtype), delta.to(DEVICE, dtype)
    weight = torch.randn(width).to(DEVICE, dtype) if has_weight else None
    options = {"weight": weight, "eps": 1e-5, "weight_offset": offset}

    def check(actual: tuple[torch.Tensor, torch.Tensor], normal: torch.Tensor, *, slack: int) -> None:
        expected, factor = quantised_activation(normal, bits)
        assert actual[0].dtype == torch.int8
        assert ((actual[0] - expected).abs() <= slack).all()
        assert (actual[0] == expected).double().mean().item() >= 0.9 or not expected.numel()
        torch.testing.assert_close(actual[1], factor, rtol=2e-3 if slack else 0.0, atol=0.0)

    check(quantised(x=x, bits=bits), x, slack=0)
    padded, factor, count, nothing = normed_rows(x=x, bits=bits, multiple=64)
    check((padded[..., :width], factor), x, slack=0)
    assert padded.shape[-1] % 64 == 0
    assert torch.equal(padded.sum(-1, keepdim=True, dtype=torch.int32), count)
    assert not nothing.numel()
    # The sum of squares has another order than torch's: a last bit of the norm may move a number by one.
    check(normed_rows(x=x, has_norm=True, bits=bits, multiple=1, **options)[:2], rms_norm(x=x, **options), slack=1)
    normal, total = add_rms_norm(delta=delta, residual=x, **options)
    whole, factor, _, found = normed_rows(x=x, delta=delta, has_norm=True, bits=bits, multiple=1, **options)
    check((whole, factor), normal, slack=1)
    assert torch.equal(found, total)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_has_no_factor(bad: float) -> None:
    x = torch.ones(2, 20, device=DEVICE)
    x[1, 3] = bad
    for has_norm in (False, True):
        factor = normed_rows(x=x, has_norm=has_norm, eps=1e-5, multiple=16)[1]
        assert factor.isfinite().tolist() == [[True], [False]]


def test_halves_go_to_even() -> None:
    """127 is the largest, so that the factor is 1 and every number is its own."""
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -127.0]], device=DEVICE)
    assert quantised(x=x)[0].tolist() == [[127, 0, 2, 2, 0, -2, -2, -127]]
