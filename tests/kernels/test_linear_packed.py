"""Linear layers in C with int8, int4 and ternary weights: exact against their own rounding, near the unrounded."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from numpy.typing import NDArray

from llmc.kernels.ternary import reference
from llmc.kernels.tolerance import assert_close, error_ratio

from .native import INSTRUCTION_SETS
from .native_linear import Case, Layer, argmax, cases, mean_magnitude, pack, pack_whole, run, unpack
from .test_linear_native import expected, inputs

PACKED = ("int8", "int4_32", "int4_128", "ternary")
WIDTHS = (1, 2, 15, 16, 17, 31, 32, 33, 47, 64, 65, 100, 127, 128, 129, 160, 257)
BOUND = {"int8": 0.011, "int4_32": 0.11, "int4_128": 0.15, "ternary": 0.62}
"""Largest error ratio of a layer with normal weights and inputs, all roundings together."""


def rounded(format: str, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """x as the kernels round it, in the same float32 steps."""
    if format == "ternary":
        whole, factor = reference.quantised_activation(torch.from_numpy(x), 8)
        return (whole.double() * (1 / factor).double()).numpy()
    rows, K = x.shape
    blocks = np.zeros((rows, -(-K // 32), 32), np.float32)
    blocks.reshape(rows, blocks.shape[1] * 32)[:, :K] = x
    most = np.abs(blocks).max(-1, keepdims=True)
    factor = np.divide(np.float32(127), most, out=np.zeros_like(most), where=most > 0)
    whole = np.rint(blocks * factor).astype(np.float64)
    return (whole * (most / np.float32(127))).reshape(rows, blocks.shape[1] * 32)[:, :K]


def weights(N: int, K: int, seed: int) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).normal(size=(N, K)) / K**0.5).astype(np.float32)


def packed_layer(isa: str, format: str, case: Case) -> tuple[Layer, NDArray[np.float32]]:
    weight = weights(case.features, case.K, case.seed)
    scale = mean_magnitude(isa, weight) if format == "ternary" else 0.0
    memory = pack(isa, format, weight, is_gated=case.is_gated, scale=scale)
    bias = inputs(1, case.features, case.seed)[0] if case.has_bias else None
    return case.layer(memory, bias, format), weight


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("format", PACKED)
@given(case=cases(WIDTHS))
def test_sums_are_exact_but_for_float32(isa: str, format: str, case: Case) -> None:
    layer, _ = packed_layer(isa, format, case)
    x = inputs(case.rows, case.K, case.seed)
    y = torch.from_numpy(run(isa, layer, x, threads=case.threads, times=1 + case.seed % 2))
    kept = torch.from_numpy(unpack(isa, layer))
    assert_close("y", y, expected(layer, kept, rounded(format, x)), tolerance=5e-6)


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("format", PACKED)
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_the_largest_numbers_do_not_overflow(isa: str, format: str, rows: int) -> None:
    """All weights and activations at the ends of their range, of both signs."""
    K, N = 512, 48
    random = np.random.default_rng(0)
    for sign in (np.ones((N, K)), -np.ones((N, K)), random.choice([-1.0, 1.0], (N, K))):
        weight = (sign * 0.5).astype(np.float32)
        layer = Layer(weight=pack(isa, format, weight, scale=0.5), bias=None, N=N, K=K, format=format)
        x = random.choice([-3.0, 3.0], (rows, K)).astype(np.float32)
        x[0] = 3
        y = torch.from_numpy(run(isa, layer, x))
        assert_close(
            "y", y, torch.from_numpy(x).double() @ torch.from_numpy(unpack(isa, layer)).double().T, tolerance=1e-6
        )


@pytest.mark.parametrize("format", PACKED)
def test_rounding_costs_what_its_bits_must(format: str) -> None:
    layer, weight = packed_layer("native", format, Case(N=96, K=1024, seed=3))
    kept = torch.from_numpy(unpack("native", layer))
    x = inputs(20, 1024, 4)
    whole = torch.from_numpy(x).double() @ torch.from_numpy(weight).double().T
    for rows in (1, 20):
        y = torch.from_numpy(run("native", layer, x[:rows]))
        assert error_ratio(y, whole[:rows]) <= BOUND[format]
        assert error_ratio(y, torch.from_numpy(x[:rows]).double() @ kept.double().T) <= 0.011


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("format", PACKED)
@pytest.mark.parametrize(("N", "K", "is_gated"), [(1, 1, False), (17, 33, True), (33, 300, False), (16, 128, True)])
def test_packing_rounds_to_the_nearest(isa: str, format: str, N: int, K: int, is_gated: bool) -> None:
    layer, weight = packed_layer(isa, format, Case(N=N, K=K, seed=5, is_gated=is_gated))
    kept = unpack(isa, layer)
    if format == "int8":
        scale = np.abs(weight).max(-1, keepdims=True) / 127
        assert np.abs(kept - weight).max() <= scale.max() * 0.501
        assert (np.abs(kept - weight) <= scale * 0.501).all()
    elif format == "ternary":
        ternary, inverse = reference.ternary_weight(torch.from_numpy(weight))
        torch.testing.assert_close(torch.from_numpy(kept), ternary / inverse, rtol=2e-7, atol=0)
    else:
        step = int(format[5:])
        for first in range(0, K, step):
            block, back = weight[:, first : first + step], kept[:, first : first + step]
            assert (np.abs(back - block) <= np.abs(block).max(-1, keepdims=True) * 0.126).all()


@pytest.mark.parametrize("format", ["int8", "ternary"])
def test_whole_numbers_are_packed_as_they_are(format: str) -> None:
    random = np.random.default_rng(1)
    limit = 127 if format == "int8" else 1
    for is_gated in (False, True):
        q = random.integers(-limit, limit + 1, (42, 75)).astype(np.int8)
        for scale in (np.array([0.25], np.float32), random.uniform(0.1, 1, 42).astype(np.float32)):
            memory = pack_whole("native", format, q, scale, is_gated=is_gated)
            layer = Layer(weight=memory, bias=None, N=42 // (1 + is_gated), K=75, format=format, is_gated=is_gated)
            np.testing.assert_array_equal(unpack("native", layer), q * np.broadcast_to(scale, 42)[:, None])


def test_ternary_is_the_reference() -> None:
    """What `ternary_linear` says, up to float32: a model that was trained ternary loses nothing by packing."""
    weight, bias = weights(80, 200, 7), inputs(1, 80, 8)[0]
    memory = pack("native", "ternary", weight, scale=mean_magnitude("native", weight))
    layer = Layer(weight=memory, bias=bias, N=80, K=200, format="ternary")
    for rows in (1, 5, 30):
        x = inputs(rows, 200, rows)
        wanted = reference.ternary_linear(
            x=torch.from_numpy(x).double(),
            weight=torch.from_numpy(weight).double(),
            bias=torch.from_numpy(bias).double(),
        )
        assert_close("y", torch.from_numpy(run("native", layer, x)), wanted, tolerance=3e-6)


@pytest.mark.parametrize("format", PACKED)
def test_zeros_and_odd_numbers(format: str) -> None:
    layer, _ = packed_layer("native", format, Case(N=40, K=100, seed=1))
    for rows in (1, 4, 20):
        assert (run("native", layer, np.zeros((rows, 100), np.float32)) == 0).all()
        tiny = np.full((rows, 100), 1e-42, np.float32)
        assert np.abs(run("native", layer, tiny)).max() < 1e-38
    zero = Layer(weight=pack("native", format, np.zeros((40, 100), np.float32)), bias=None, N=40, K=100, format=format)
    assert (run("native", zero, inputs(3, 100, 0)) == 0).all()


@pytest.mark.parametrize("format", PACKED)
def test_argmax(format: str) -> None:
    layer, _ = packed_layer("native", format, Case(N=5000, K=64, seed=2))
    number, y = argmax("native", layer, inputs(1, 64, 3))
    assert number == y.argmax()
