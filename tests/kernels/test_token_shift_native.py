"""Token shift in C against its reference, over calls that continue."""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

import ctypes

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmc.kernels.shift.reference import token_shift

from .native_region import DTYPES, ISAS, Output, address, positions, run_region, strided


class Shift(ctypes.Structure):
    _fields_ = (
        ("x", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("x_stride", "batch", "tokens", "features")),
        ("position", ctypes.c_void_p),
        ("last", ctypes.c_void_p),
        ("type", ctypes.c_int),
    )


@pytest.mark.parametrize("isa", ISAS)
@given(
    batch=st.integers(1, 3),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    features=st.sampled_from([1, 7, 64, 256, 300, 513]),
    keeps=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
def test_token_shift(
    isa: str, batch: int, lengths: list[int], features: int, keeps: bool, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    last = torch.randn(batch, features).to(dtype)
    expected = last.clone()
    for tokens in lengths:
        x, position, out = (
            torch.randn(batch, tokens, features),
            positions(batch, tokens),
            Output(batch, tokens, features),
        )
        wide, stride = strided(x)
        argument = Shift(address(wide), out.address, stride, batch, tokens, features, position.data_ptr())
        argument.last, argument.type = address(last) if keeps else None, DTYPES.index(dtype)
        run_region(isa, "shift", "llmc_token_shift", argument)
        if keeps:
            found, (expected,) = token_shift(x=x, position=position, state=(expected,))
        else:
            found = token_shift(x=x, position=position)
        assert torch.equal(out.check(), found)
        if keeps:
            assert torch.equal(last, expected)
