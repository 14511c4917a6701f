"""Norms, activations and RoPE in C against their references in float64: whole vectors, parts of one, single numbers."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import ctypes

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llmc.kernels.norm import reference as norm
from llmc.kernels.pointwise import reference as pointwise
from llmc.kernels.pointwise.reference import ActivationKind
from llmc.kernels.rope.reference import rope_apply

from .native import KERNELS, library
from .native_region import Output, address

ISAS = ("native", "avx2", "portable")
KINDS: tuple[ActivationKind, ...] = (
    "gelu", "gelu_tanh", "gelu_quick", "relu", "relu2", "silu", "sigmoid", "tanh", "softplus", "exp", "identity",
)  # fmt: skip
SOURCES = tuple(KERNELS / name for name in ("norm/native.c", "pointwise/native.c"))
ROPE = f'#include "{KERNELS / "rope" / "native.h"}"\n' + "".join(
    f"void rope_{layout}(float *y, const float *x, const float *table, int64_t heads, int64_t size, int64_t rotary)"
    f" {{ llmc_rope_{layout}(y, x, table, heads, size, rotary); }}\n"
    for layout in ("half", "interleaved")
)
POINTER, FLOAT, COUNT = ctypes.c_void_p, ctypes.c_float, ctypes.c_int64
widths = st.sampled_from([1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 48, 64, 100, 257])
flags = st.booleans()
seeds = st.integers(0, 2**31)


def call(isa: str, name: str, *arguments: object) -> None:
    function = getattr(library(isa, SOURCES, ROPE), name)
    kinds: dict[type, object] = {float: FLOAT, int: COUNT, type(None): POINTER}
    function.argtypes = [POINTER if isinstance(a, Tensor) else kinds[type(a)] for a in arguments]
    function.restype = None
    function(*(address(a) if isinstance(a, Tensor) else a for a in arguments))


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def close(actual: Tensor, expected: Tensor, tolerance: float = 3e-6) -> None:
    bound = tolerance * max(1.0, float(expected.abs().max()))
    assert float((actual.double() - expected).abs().max()) <= bound


@pytest.mark.parametrize("isa", ISAS)
@given(
    n=widths,
    seed=seeds,
    has_weight=st.booleans(),
    offset=st.sampled_from([0.0, 1.0]),
    size=st.sampled_from([1e-3, 1, 1e3]),
)
def test_rms_norm(isa: str, n: int, seed: int, has_weight: bool, offset: float, size: float) -> None:
    x, out = random(seed, n) * size, Output(n)
    weight = random(seed + 1, n) if has_weight else None
    offset = offset if has_weight else 0.0
    call(isa, "llmc_rms_norm", out.tensor, x, weight, offset, 1e-5, n)
    wide = None if weight is None else weight.double()
    close(out.check(), norm.rms_norm(x=x.double(), weight=wide, eps=1e-5, weight_offset=offset))


@pytest.mark.parametrize("isa", ISAS)
@given(
    n=widths.filter(lambda n: n > 1),
    seed=seeds,
    has_weight=st.booleans(),
    has_bias=st.booleans(),
    mean=st.sampled_from([0.0, 10.0]),
)
def test_layer_norm(isa: str, n: int, seed: int, has_weight: bool, has_bias: bool, mean: float) -> None:
    x, out = random(seed, n) + mean, Output(n)
    weight, bias = (random(seed + i, n) if has else None for i, has in ((1, has_weight), (2, has_bias)))
    call(isa, "llmc_layer_norm", out.tensor, x, weight, bias, 1e-5, n)
    wide = [None if v is None else v.double() for v in (weight, bias)]
    steepness = (float(x.double().var(correction=0)) + 1e-5) ** -0.5
    """How much the norm enlarges the rounding of the mean, which is about half an ulp of it."""
    expected = norm.layer_norm(x=x.double(), weight=wide[0], bias=wide[1], eps=1e-5)
    largest = 1.0 if weight is None else float(weight.abs().max())
    close(out.check(), expected, 3e-6 + 2 * mean * 2.0**-24 * steepness * largest)


@pytest.mark.parametrize("isa", ISAS)
@given(n=widths, seed=seeds)
def test_l2_norm_and_add(isa: str, n: int, seed: int) -> None:
    x, y = random(seed, n), random(seed + 1, n)
    out, total = Output(n), Output(n)
    call(isa, "llmc_l2_norm", out.tensor, x, 1e-6, n)
    close(out.check(), norm.l2_norm(x=x.double(), eps=1e-6))
    call(isa, "llmc_add", total.tensor, x, y, n)
    assert torch.equal(total.check(), x + y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("isa", ISAS)
@given(n=widths, seed=seeds, size=st.sampled_from([0.1, 1.0, 8.0]))
def test_activations_and_gates(isa: str, kind: ActivationKind, n: int, seed: int, size: float) -> None:
    x, up = random(seed, n) * size, random(seed + 1, n)
    out, gated = Output(n), Output(n)
    expected = pointwise.activation(x=x.double(), kind=kind)
    call(isa, f"llmc_activate_{kind}", out.tensor, x, n)
    close(out.check(), expected)
    call(isa, f"llmc_gate_{kind}", gated.tensor, x, up, n)
    close(gated.check(), expected * up.double())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("isa", ISAS)
def test_nan_stays_nan(isa: str, kind: ActivationKind) -> None:
    x, out = torch.full((19,), float("nan")), torch.zeros(19)
    call(isa, f"llmc_activate_{kind}", out, x, 19)
    assert out.isnan().all()


@pytest.mark.parametrize("isa", ISAS)
@given(n=widths, seed=seeds, sparsity=st.sampled_from([0.5, 0.95]))
def test_softcap_and_sparsity(isa: str, n: int, seed: int, sparsity: float) -> None:
    from statistics import NormalDist

    x, out, sparse = random(seed, n) * 20, Output(n), Output(n)
    call(isa, "llmc_softcap", out.tensor, x, 30.0, n)
    close(out.check(), pointwise.softcap(x=x.double(), cap=30.0))
    call(isa, "llmc_topk_sparsity", sparse.tensor, x, NormalDist().inv_cdf(sparsity), n)
    ulps = 4 * 2.0**-24 * float(x.abs().max())  # of the cutoff, which has the size of x whatever is left above it
    close(sparse.check(), pointwise.topk_sparsity(x=x.double(), sparsity=sparsity), max(3e-6, ulps))


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("isa", ISAS)
@given(heads=st.integers(1, 5), size=st.integers(1, 40), part=st.integers(1, 40), seed=seeds)
def test_rope(isa: str, layout: str, heads: int, size: int, part: int, seed: int) -> None:
    size, rotary = 2 * size, 2 * min(part, size)
    x, table, out = random(seed, heads * size), random(seed + 1, rotary), Output(heads * size)
    call(isa, f"rope_{layout}", out.tensor, x, table, heads, size, rotary)
    expected = rope_apply(
        x=x.double().view(1, 1, -1),
        table=table.double().view(1, 1, -1),
        head_dim=size,
        rotary_dim=rotary,
        layout="half" if layout == "half" else "interleaved",
    )
    close(out.check(), expected.flatten())
