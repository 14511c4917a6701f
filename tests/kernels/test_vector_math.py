"""Vector mathematics in C against float64, over the whole range of floats, on each instruction set."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from .native import INSTRUCTION_SETS, library, pointer

Number = TypeVar("Number", bound="np.number[Any]")
LOOP = "for (long i = 0; i + LLMC_LANES <= n; i += LLMC_LANES)"


def exact_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * torch.special.erfc(-x / math.sqrt(2))


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "exp": (torch.exp, 1.2e-7),
    "sigmoid": (torch.sigmoid, 2.4e-7),
    "tanh": (torch.tanh, 2.4e-7),
    "erf": (torch.erf, 2.4e-7),
    "softplus": (lambda x: x.clamp(min=0) + torch.log1p(torch.exp(-x.abs())), 4e-7),
    "silu": (functional.silu, 1e-6),
    "gelu": (exact_gelu, 3e-5),
    "gelu_tanh": (lambda x: x * torch.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3)), 3e-5),
    "relu": (torch.relu, 0.0),
    "relu2": (lambda x: functional.relu(x) * functional.relu(x), 1e-7),
}
"""The definition and the largest relative error; the tails of gelu (x < -5) amplify the rounding of x itself."""
SOURCE = '#include "vector_math.h"\n' + "\n".join(
    [
        *(
            f"void t_{name}(const float *x, float *y, long n) {{ {LOOP} vf_store(y + i, vf_{name}(vf_load(x + i))); }}"
            for name in FUNCTIONS
        ),
        f"void to_fp16(const float *x, uint16_t *y, long n) {{ {LOOP} {{ vh h = vh_fp16(vf_load(x + i));"
        " memcpy(y + i, &h, sizeof h); } }",
        f"void to_bf16(const float *x, uint16_t *y, long n) {{ {LOOP} vf_store_bf16(y + i, vf_load(x + i)); }}",
        f"void from_fp16(const uint16_t *x, float *y, long n) {{ {LOOP} vf_store(y + i, vf_load_fp16(x + i)); }}",
        f"void from_bf16(const uint16_t *x, float *y, long n) {{ {LOOP} vf_store(y + i, vf_load_bf16(x + i)); }}",
        "void parts(const float *x, float *y, int count) { vf_store_part(y, vf_load_part(x, count), count); }",
        "int lanes(void) { return LLMC_LANES; }",
        "void reduce(const float *x, float *y) { vf v = vf_load(x); y[0] = vf_sum(v); y[1] = vf_largest(v); "
        "y[2] = (float)vi_sum(vi_nearest(v)); y[3] = vf_sqrt(vf_abs(v))[1]; }",
    ]
)


def build(name: str) -> ctypes.CDLL:
    return library(name, (), SOURCE)


def numbers() -> NDArray[np.float32]:
    random = np.random.default_rng(0)
    parts = [
        np.linspace(-110, 95, 40_000),
        random.normal(size=20_000) * 3,
        random.normal(size=10_000) * 0.01,
        10.0 ** -random.uniform(0, 30, 2_000),
    ]
    return np.concatenate(parts).astype(np.float32)


def call(function: object, x: NDArray[np.generic], dtype: type[Number]) -> NDArray[Number]:
    assert len(x) % 16 == 0
    y = np.zeros(len(x), dtype)
    assert callable(function)
    function(pointer(x), pointer(y), ctypes.c_long(len(x)))
    return y


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_near_float64(isa: str, name: str) -> None:
    x = numbers()
    x = x[: len(x) // 16 * 16]
    definition, bound = FUNCTIONS[name]
    expected = definition(torch.from_numpy(x).double()).numpy()
    actual = call(getattr(build(isa), f"t_{name}"), x, np.float32).astype(np.float64)
    size = np.abs(expected)
    normal = (size > 1e-37) & (size < 3.4e38)
    error = np.abs(actual - expected)[normal] / size[normal]
    assert error.max() <= bound, f"{name}: {error.max():.2e} at x = {x[normal][error.argmax()]}"
    assert np.abs(actual - expected)[size <= 1e-37].max(initial=0) <= 1e-42
    near = normal & (np.abs(x) < 5)
    assert (np.abs(actual - expected)[near] / size[near]).max() <= 3e-6


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_special_values(isa: str) -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-45] * 2, np.float32)
    for name in ("exp", "sigmoid", "tanh", "erf"):
        actual = call(getattr(build(isa), f"t_{name}"), x, np.float32)
        expected = FUNCTIONS[name][0](torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=0, err_msg=name)
    for name in ("silu", "gelu", "gelu_tanh", "relu", "softplus"):
        actual = call(getattr(build(isa), f"t_{name}"), x, np.float32)
        expected = FUNCTIONS[name][0](torch.from_numpy(x)).numpy()
        kept = [0, 1, 2, 4, 5]
        np.testing.assert_allclose(actual[kept], expected[kept], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_halves_convert_as_ieee_says(isa: str) -> None:
    module = build(isa)
    every = np.arange(65536, dtype=np.uint16)
    wide = every.view(np.float16).astype(np.float32)
    finite = wide[:31744]
    np.testing.assert_array_equal(call(module.from_fp16, every, np.float32), wide)
    np.testing.assert_array_equal(call(module.from_bf16, every, np.uint32), every.astype(np.uint32) << 16)
    random = np.random.default_rng(0)
    scaled = (random.normal(size=1 << 16) * 10.0 ** random.uniform(-9, 5, 1 << 16)).astype(np.float32)
    ties = np.append((finite[1:] + finite[:-1]) / 2, np.float32(65520))
    x = np.concatenate([random.integers(0, 2**32, 1 << 16, dtype=np.uint32).view(np.float32), scaled, wide, ties])
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(call(module.to_fp16, x, np.uint16).view(np.float16), x.astype(np.float16))
    bf16 = torch.from_numpy(call(module.to_bf16, x, np.int16)).view(torch.bfloat16)
    assert torch.equal(bf16.nan_to_num(), torch.from_numpy(x).bfloat16().nan_to_num())


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_parts_touch_only_their_elements(isa: str) -> None:
    module = build(isa)
    for count in range(module.lanes() + 1):
        x, y = np.arange(1, 17, dtype=np.float32), np.full(16, np.nan, np.float32)
        module.parts(pointer(x), pointer(y), ctypes.c_int(count))
        assert (y[:count] == x[:count]).all()
        assert np.isnan(y[count:]).all()


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_reductions(isa: str) -> None:
    module = build(isa)
    x = np.array([0.5, -1.5, 2.5, 7, -9, 11, 0.25, 3, 5, -6, 1, 2, 3, 4, 5, 6], np.float32)
    y = np.zeros(4, np.float32)
    module.reduce(pointer(x), pointer(y))
    lanes = x[: module.lanes()]
    assert y.tolist() == [lanes.sum(), lanes.max(), np.rint(lanes).sum(), np.sqrt(np.float32(1.5))]
