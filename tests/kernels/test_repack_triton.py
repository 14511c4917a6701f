"""Matrices that machine code packed, in the layouts of the Triton kernels: what both multiply with is the same."""

# pyright: basic
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmc.kernels.linear import triton_pack
from llmc.kernels.linear.triton_repack import Packed, repack, size
from llmc.kernels.ternary import triton_pack as ternary_pack
from llmc.kernels.tolerance import error_ratio

from .native import INSTRUCTION_SETS
from .native_linear import Layer, mean_magnitude, pack, unpack
from .test_linear_packed import weights

FORMATS = {"int8": "int8", "int4": "int4_32", "int4_128": "int4_128", "ternary": "ternary"}
"""What the compiler calls a format, and what C does."""


@pytest.mark.parametrize("format", FORMATS)
@given(
    features=st.sampled_from([1, 15, 16, 17, 40]),
    width=st.sampled_from([1, 31, 32, 33, 64, 129, 256, 300]),
    is_pair=st.booleans(),
    count=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_the_same_numbers(format: str, features: int, width: int, is_pair: bool, count: int, seed: int) -> None:
    isa, rows = next(iter(INSTRUCTION_SETS)), features * (2 if is_pair else 1)
    matrices, expected, plain = [], [], []
    for i in range(count):
        weight = (1 + i) * weights(rows, width, seed + i)
        scale = mean_magnitude(isa, weight) if format == "ternary" else 0.0
        memory = pack(isa, FORMATS[format], weight, is_gated=is_pair, scale=scale)
        layer = Layer(weight=memory, bias=None, N=features, K=width, format=FORMATS[format], is_gated=is_pair)
        expected.append(torch.from_numpy(unpack(isa, layer)))
        matrices.append(Packed(torch.from_numpy(memory), rows, width, is_pair))
        plain.append(torch.from_numpy(weight))
    assert all(size(matrix, format) == matrix.bytes.numel() for matrix in matrices)
    found = repack(matrices, format)
    whole = torch.cat(plain)
    if format == "ternary":
        made = ternary_pack.pack(whole, (rows,) * count)
        numbers, others = (ternary * scales[:, None] for ternary, scales in unpacked(found, made, width))
    else:
        group = {"int8": 1, "int4": 32, "int4_128": 128}[format]
        made = getattr(triton_pack, f"pack_{format}")(whole)
        numbers, others = (triton_pack.dequantised(one, width, group) for one in (found, made))
    assert torch.equal(numbers, torch.cat(expected))
    assert found.shape == made.shape
    assert error_ratio(others, numbers) < 0.02, "packing in torch rounds as packing in C, but for a last bit"


def unpacked(found: torch.Tensor, made: torch.Tensor, width: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [ternary_pack.unpack(one, width) for one in (found, made)]
