"""Linear layers in C against float64: every format, any shape, on each instruction set."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from llmc.kernels.tolerance import assert_close

from .native import INSTRUCTION_SETS
from .native_linear import Case, Layer, argmax, cases, run

PLAIN = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WIDTHS = (1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 47, 64, 65, 100, 129, 257)
STEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "relu2": lambda x: functional.relu(x) * functional.relu(x),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def expected(layer: Layer, weight: Tensor, x: NDArray[np.floating]) -> Tensor:
    """The layer in float64."""
    bias = None if layer.bias is None else torch.from_numpy(layer.bias).double()
    y = functional.linear(torch.from_numpy(x).double(), weight.double(), bias)
    step = STEPS[layer.activation]
    return step(y[:, : layer.N]) * y[:, layer.N :] if layer.is_gated else step(y)


def plain_layer(format: str, case: Case) -> tuple[Layer, Tensor]:
    """A layer whose weight is at an odd place in memory, and that weight."""
    generator = torch.Generator().manual_seed(case.seed)
    weight = (torch.randn(case.features, case.K, generator=generator) / case.K**0.5).to(PLAIN[format])
    bias = torch.randn(case.features, generator=generator).numpy() if case.has_bias else None
    raw = weight.contiguous().view(torch.uint8).numpy().reshape(-1)
    memory = np.full(raw.size + 2, 0xFF, np.uint8)
    memory[2:] = raw
    return case.layer(memory[2:], bias, format), weight


def scattered(layer: Layer, weight: Tensor, parts: int) -> Layer:
    """The layer with its rows in several places, each at an odd address between NaN."""
    cuts = np.linspace(0, len(weight), parts + 1).astype(np.int64)
    places: list[NDArray[np.uint8]] = []
    for first, end in pairwise(cuts):
        raw = weight[first:end].contiguous().view(torch.uint8).numpy().reshape(-1)
        memory = np.full(raw.size + 4 + 2 * len(places) + 64, 0xFF, np.uint8)
        places.append(memory[2 + 2 * len(places) :])
        places[-1][: raw.size] = raw
    return replace(layer, weight=layer.weight[:0], parts=tuple(places), ends=cuts[1:].copy())


def inputs(rows: int, K: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(rows, K)).astype(np.float32)


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("format", PLAIN)
@given(case=cases(WIDTHS), parts=st.integers(1, 4))
def test_plain_formats(isa: str, format: str, case: Case, parts: int) -> None:
    layer, weight = plain_layer(format, case)
    if parts > 1:
        layer = scattered(layer, weight, parts)
    x = inputs(case.rows, case.K, case.seed)
    y = torch.from_numpy(run(isa, layer, x, threads=case.threads, times=1 + case.seed % 2))
    rounds_x = format == "bf16" and case.rows > 8 and isa in ("native", "bf16_dot")
    assert_close("y", y, expected(layer, weight, x), tolerance=1e-2 if rounds_x else 3e-6)


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("N", [1, 16, 37, 1000, 40_000])
def test_argmax_is_the_first_of_the_largest(isa: str, N: int) -> None:
    layer, _ = plain_layer("bf16", Case(N=N, K=24, seed=N, has_bias=True))
    x = inputs(1, 24, N)
    number, y = argmax(isa, layer, x)
    np.testing.assert_array_equal(y, run(isa, layer, x)[0])
    assert number == y.argmax()
    assert layer.bias is not None
    layer.bias[:] = 0
    number, y = argmax(isa, layer, np.zeros_like(x))
    assert number == 0
    layer.bias[[N // 3, N // 2]] = np.nan
    assert argmax(isa, layer, x)[0] == N // 3
    layer.bias[:] = -np.inf
    assert argmax(isa, layer, x)[0] == 0


def test_an_odd_address_and_a_long_row() -> None:
    for format in PLAIN:
        layer, weight = plain_layer(format, Case(N=50, K=5003, seed=1, activation="silu", has_bias=True, is_gated=True))
        for rows in (1, 2, 4, 7, 30):
            x = inputs(rows, 5003, rows)
            y = torch.from_numpy(run("native", layer, x))
            tolerance = 1e-2 if format == "bf16" and rows > 8 else 3e-6
            assert_close(format, y, expected(layer, weight, x), tolerance=tolerance)
