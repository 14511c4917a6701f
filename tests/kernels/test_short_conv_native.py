"""Short convolution in C against its reference in float64, over calls that continue."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import ctypes

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llmc.kernels.conv.reference import short_conv
from llmc.kernels.pointwise.reference import ActivationKind
from llmc.kernels.tolerance import TOLERANCE, assert_close

from .native import KERNELS
from .native_region import DTYPES, ISAS, Output, address, positions, run_region, strided

CHANNELS = st.sampled_from([1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 64, 65, 70, 130])


class Conv(ctypes.Structure):
    _fields_ = (
        ("x", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("x_stride", "batch", "tokens", "channels", "taps")),
        *((name, ctypes.c_void_p) for name in ("position", "weight", "bias", "activate", "tail")),
        ("type", ctypes.c_int),
    )


@pytest.mark.parametrize("isa", ISAS)
@given(
    batch=st.integers(1, 3),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    channels=CHANNELS,
    taps=st.integers(1, 6),
    activation=st.sampled_from(["identity", "silu", "gelu"]),
    has_bias=st.booleans(),
    keeps=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
    threads=st.integers(1, 3),
)
def test_short_conv(
    isa: str,
    batch: int,
    lengths: list[int],
    channels: int,
    taps: int,
    activation: ActivationKind,
    has_bias: bool,
    keeps: bool,
    dtype: torch.dtype,
    seed: int,
    threads: int,
) -> None:
    torch.manual_seed(seed)
    weight, bias = torch.randn(channels, 1, taps), torch.randn(channels) if has_bias else None
    tail = torch.randn(batch, channels, taps - 1).to(dtype)
    for tokens in lengths:
        x, position, out = (
            torch.randn(batch, tokens, channels),
            positions(batch, tokens),
            Output(batch, tokens, channels),
        )
        state = (tail.double(),)
        wide, stride = strided(x)
        argument = Conv(address(wide), out.address, stride, batch, tokens, channels, taps)
        argument.position, argument.weight, argument.bias = position.data_ptr(), address(weight), address(bias)
        argument.tail, argument.type = address(tail) if keeps else None, DTYPES.index(dtype)
        _run_conv(isa, argument, activation, threads)
        operands = {"x": x.double(), "position": position, "weight": weight.double(), "activation": activation}
        if bias is not None:
            operands["bias"] = bias.double()
        found = short_conv(**operands, **({"state": state} if keeps else {}))  # type: ignore[call-overload]  # pyright: ignore
        assert_close("out", out.check(), found if isinstance(found, Tensor) else found[0])
        if keeps and taps > 1:
            assert_close("tail", tail.float(), state[0], tolerance=TOLERANCE[dtype])


def _run_conv(isa: str, argument: Conv, activation: str, threads: int) -> None:
    """The struct holds the address of an activation, which only C knows."""
    others = ("pointwise/native.c", "norm/native.c")
    function = f"""
#include "{KERNELS / "pointwise" / "native.h"}"
static void convolve_{activation}(llmc_thread *t, void *a) {{
    llmc_conv b = *(llmc_conv *)a;
    b.activate = llmc_activate_{activation};
    llmc_short_conv(t, &b);
}}
"""
    run_region(isa, "conv", f"convolve_{activation}", argument, others=others, threads=threads, before=function)
