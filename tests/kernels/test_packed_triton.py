"""Linear layers with 8-bit and 4-bit weights in Triton: the numbers of the packers in C, and products in float64."""

# pyright: basic
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from llmc.kernels.gpu.tuning import forced
from llmc.kernels.linear.triton_int4 import int4_linear
from llmc.kernels.linear.triton_int8 import int8_linear
from llmc.kernels.linear.triton_pack import (
    dequantised,
    pack_int4,
    pack_int4_128,
    pack_int8,
    rows_of,
)
from llmc.kernels.tolerance import assert_close

from .gpu import DEVICE, DTYPES
from .native_linear import Case
from .native_linear import pack as pack_in_c
from .native_linear import unpack as unpack_in_c

PACKERS = {1: pack_int8, 32: pack_int4, 128: pack_int4_128}


@given(
    tokens=st.sampled_from([0, 1, 5]),
    rows=st.sampled_from([1, 5, 33]),
    width=st.sampled_from([3, 64, 150, 300]),
    group=st.sampled_from([1, 32, 128]),
    has_bias=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_products(
    tokens: int, rows: int, width: int, group: int, has_bias: bool, dtype: torch.dtype, seed: int
) -> None:
    make = torch.Generator().manual_seed(seed)
    x, weight, bias = (
        torch.randn(*shape, generator=make).to(DEVICE, dtype) for shape in ((1, tokens, width), (rows, width), (rows,))
    )
    bias = bias if has_bias else None
    packed = PACKERS[group](weight)
    assert rows_of(packed, width, group) == rows
    tile = {"BLOCK_M": 16, "BLOCK_N": 32, "GROUP": 2, "num_warps": 4}
    with (
        forced("int8_vector", {"BLOCK_OUT": 16, "BLOCK_IN": 64, "num_warps": 4}),
        forced("int4_vector", {"BLOCK_OUT": 16, "BLOCK_IN": 2, "num_warps": 4}),
        forced("int8_matrix", tile | {"BLOCK_K": 64}),
        forced("int4_matrix", tile),
    ):
        found = (
            int8_linear(x=x, weight=packed, bias=bias)
            if group == 1
            else int4_linear(x=x, weight=packed, bias=bias, group=group)
        )
    held = dequantised(packed, width, group).double()
    expected = torch.nn.functional.linear(x.double(), held, None if bias is None else bias.double())
    assert_close("out", found, expected)


@pytest.mark.parametrize(("format", "group"), [("int8", 1), ("int4_32", 32), ("int4_128", 128)])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (33, 300), (16, 128)])
def test_packed_numbers_are_those_of_the_kernels_in_c(format: str, group: int, rows: int, width: int) -> None:
    weight = torch.randn(rows, width) * torch.logspace(-6, 1, rows)[:, None]
    weight[:, 0] *= 5
    weight[rows // 2] = 0
    layer = Case(N=rows, K=width).layer(pack_in_c("native", format, weight.numpy()), None, format)
    assert torch.equal(
        dequantised(PACKERS[group](weight), width, group), torch.from_numpy(unpack_in_c("native", layer))
    )


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("group", [1, 32, 128])
def test_products_with_the_rule(tokens: int, group: int) -> None:
    x, weight = torch.randn(tokens, 600).to(DEVICE), torch.randn(20, 600).to(DEVICE)
    packed = PACKERS[group](weight)
    found = int8_linear(x=x, weight=packed) if group == 1 else int4_linear(x=x, weight=packed, group=group)
    assert_close("out", found, x.double() @ dequantised(packed, 600, group).double().T)
