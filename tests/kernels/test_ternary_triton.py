"""Packed ternary layers in Triton: packing back and forth, products in float64, norms and gates around them."""

# pyright: basic
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from llmc.kernels.gpu.tuning import forced
from llmc.kernels.ternary import packed_in_torch, reference, triton_ternary
from llmc.kernels.ternary.triton_pack import pack, rows_of, unpack
from llmc.kernels.ternary.triton_ternary import ternary_linear
from llmc.kernels.ternary.triton_vector import FEW
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
    found, scales = unpack(packed, width)
    assert torch.equal(found.float(), ternary)
    assert torch.equal(scales, (1.0 / inverse).expand(rows))
    assert rows_of(packed, width) == rows
    both = torch.cat((weight, 3 * weight[:1]))
    found, scales = unpack(pack(both, (rows, 1)), width)
    assert torch.equal(found, torch.cat([unpack(pack(part), width)[0] for part in both.split((rows, 1))]))
    assert torch.equal(scales[rows:], 1.0 / reference.ternary_weight(both[rows:])[1].expand(1))


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
        forced("ternary_vector", {"BLOCK_OUT": 8, "TILES": 2, "num_warps": 4}),
        forced("ternary_matrix", {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 32, "GROUP": 2, "num_warps": 4}),
    ):
        found = ternary_linear(x=x, weight=pack(weight), bias=bias, activation_bits=bits)
    whole, factor = reference.quantised_activation(x, bits)
    ternary, inverse = reference.ternary_weight(weight)
    expected = torch.nn.functional.linear(whole.double(), ternary.double()) / factor.double() / inverse.double()
    assert_close("out", found, expected if bias is None else expected + bias.double())
    rounded = reference.ternary_linear(x=x, weight=weight, bias=bias, activation_bits=bits)
    assert_close("reference", found, rounded, tolerance=4e-3)
    assert_close(
        "torch", packed_in_torch.ternary_linear(x=x, weight=pack(weight), bias=bias, activation_bits=bits), rounded
    )


@pytest.mark.parametrize("tokens", [1, 70])
def test_products_with_the_rule(tokens: int) -> None:
    x, weight = random(tokens, 300, seed=1, dtype=torch.float32), random(40, 300, seed=2, dtype=torch.float32)
    expected = reference.ternary_linear(x=x, weight=weight)
    assert_close("out", ternary_linear(x=x, weight=pack(weight)), expected, tolerance=1e-5)


@given(
    tokens=st.sampled_from([1, 3, FEW + 1]),
    width=st.sampled_from([7, 64, 130]),
    has_delta=st.booleans(),
    has_weight=st.booleans(),
    offset=st.sampled_from([0.0, 1.0]),
    kind=st.sampled_from([None, "relu2"]),
    has_bias=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_projections_after_a_norm(
    tokens: int, width: int, has_delta: bool, has_weight: bool, offset: float, kind: str | None, has_bias: bool,
    dtype: torch.dtype, seed: int,
) -> None:  # fmt: skip
    """A number near a half may round to the other side, as the sum of squares has another order than torch's."""
    x, delta = (random(1, tokens, width, seed=seed + i, dtype=dtype) for i in range(2))
    parts = (9, 9) if kind else (9, 2, 4)
    weights = (
        random(rows, width, seed=seed + i, dtype=dtype) / 8 for i, rows in enumerate(parts)
    )  # squares stay small
    weight = torch.cat([(1 + i) * one for i, one in enumerate(weights)])
    options = {
        "bias": random(sum(parts), seed=seed + 9, dtype=dtype) if has_bias else None, "eps": 1e-5, "kind": kind,
        "norm_weight": random(width, seed=seed + 8, dtype=dtype) if has_weight else None, "weight_offset": offset,
        "parts": parts,
    }  # fmt: skip
    packed = pack(weight, parts)
    with (
        forced("ternary_vector", {"BLOCK_OUT": 4, "TILES": 2, "num_warps": 4}),
        forced("ternary_matrix", {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 32, "GROUP": 2, "num_warps": 4}),
    ):
        if has_delta:
            operands = {"delta": delta, "residual": x, **options}
            expected, total = reference.add_rms_norm_ternary_projection(weight=weight, **operands)
            for implementation in (triton_ternary, packed_in_torch):
                found, sums = implementation.add_rms_norm_ternary_projection(weight=packed, **operands)
                assert torch.equal(sums, total)
                assert_close("out", found, expected, tolerance=0.02)
        else:
            expected = reference.rms_norm_ternary_projection(x=x, weight=weight, **options)
            for implementation in (triton_ternary, packed_in_torch):
                found = implementation.rms_norm_ternary_projection(x=x, weight=packed, **options)
                assert_close("out", found, expected, tolerance=0.02)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("tokens", [2, FEW + 1])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_token_that_is_not_finite_stays_so(tokens: int, bad: float) -> None:
    x, weight = torch.ones(tokens, 20, device=DEVICE), random(3, 20, seed=1, dtype=torch.float32)
    x[1, 3] = bad
    found = ternary_linear(x=x, weight=pack(weight)).isfinite()
    assert found.all(1).tolist() == [token != 1 for token in range(tokens)]
    assert not found[1].any()
