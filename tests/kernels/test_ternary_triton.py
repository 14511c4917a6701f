"""Packed ternary layers in Triton: packing back and forth, products in float64."""

# pyright: basic
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from llmc.kernels.gpu.tuning import forced
from llmc.kernels.ternary import reference
from llmc.kernels.ternary.triton_pack import pack, rows_of, unpack
from llmc.kernels.ternary.triton_pack import ternary_linear as in_torch
from llmc.kernels.ternary.triton_ternary import FEW, ternary_linear
from llmc.kernels.tolerance import assert_close

from .gpu import DEVICE, DTYPES

SIZES = st.sampled_from([1, 7, 64, 65, 130])


def random(*shape: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


@given(rows=st.integers(1, 5), width=SIZES, dtype=st.sampled_from(DTYPES), seed=st.integers(0, 2**16))
def test_packing_is_exact(rows: int, width: int, dtype: torch.dtype, seed: int) -> None:
    weight = random(rows, width, seed=seed, dtype=dtype)
    ternary, inverse = reference.ternary_weight(weight)
    packed = pack(weight)
    found, scale = unpack(packed, width)
    assert torch.equal(found.float(), ternary)
    assert scale == 1.0 / inverse
    assert rows_of(packed, width) == rows


@given(
    tokens=st.sampled_from([0, 1, 2, FEW + 1, 19]),
    rows=st.sampled_from([1, 5, 33]),
    width=SIZES,
    has_bias=st.booleans(),
    bits=st.sampled_from([4, 8]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_products(tokens: int, rows: int, width: int, has_bias: bool, bits: int, dtype: torch.dtype, seed: int) -> None:
    x, weight = random(1, tokens, width, seed=seed, dtype=dtype), random(rows, width, seed=seed + 1, dtype=dtype)
    bias = random(rows, seed=seed + 2, dtype=dtype) if has_bias else None
    with (
        forced("ternary_vector", {"BLOCK_OUT": 16, "BLOCK_IN": 8, "num_warps": 4}),
        forced("ternary_matrix", {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 32, "GROUP": 2, "num_warps": 4}),
    ):
        found = ternary_linear(x=x, weight=pack(weight), bias=bias, activation_bits=bits)
    whole, factor = reference.quantised_activation(x, bits)
    ternary, inverse = reference.ternary_weight(weight)
    expected = torch.nn.functional.linear(whole.double(), ternary.double()) / factor.double() / inverse.double()
    assert_close("out", found, expected if bias is None else expected + bias.double())
    rounded = reference.ternary_linear(x=x, weight=weight, bias=bias, activation_bits=bits)
    assert_close("reference", found, rounded, tolerance=4e-3)
    assert_close("torch", in_torch(x=x, weight=pack(weight), bias=bias, activation_bits=bits), rounded)


@pytest.mark.parametrize("tokens", [1, 70])
def test_products_with_the_rule(tokens: int) -> None:
    x, weight = random(tokens, 300, seed=1, dtype=torch.float32), random(40, 300, seed=2, dtype=torch.float32)
    expected = reference.ternary_linear(x=x, weight=weight)
    assert_close("out", ternary_linear(x=x, weight=pack(weight)), expected, tolerance=1e-5)
