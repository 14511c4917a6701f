"""Products of few tokens in Triton against the float64 reference: odd sizes, strides, bias, every gate."""

# pyright: basic
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from llmc.kernels.gpu.tuning import forced
from llmc.kernels.linear import reference
from llmc.kernels.linear.triton_gemv import FEW_ROWS, MOST_ROWS, ONE_ROW, gated_linear, linear, tuning_key
from llmc.kernels.pointwise.reference import ActivationKind
from llmc.kernels.tolerance import assert_close

from .gpu import DEVICE, DTYPES


@given(
    rows=st.sampled_from([0, 1, 2, MOST_ROWS, MOST_ROWS + 1]),
    size_in=st.sampled_from([7, 48, 100]),
    size_out=st.sampled_from([1, 5, 18]),
    has_bias=st.booleans(),
    kind=st.sampled_from(["", *ActivationKind.__args__]),
    is_strided=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_values(
    rows: int, size_in: int, size_out: int, has_bias: bool, kind: str, is_strided: bool, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    size = 2 * size_out if kind else size_out
    x = torch.randn(rows, 1, size_in + 3)[..., 2:-1] if is_strided else torch.randn(rows, 1, size_in)
    weight = torch.randn(size, size_in + 2)[:, :size_in] if is_strided else torch.randn(size, size_in)
    given = {"x": x, "weight": weight / size_in**0.5, "bias": torch.randn(size) if has_bias else None}
    given = {name: None if value is None else value.to(DEVICE, dtype) for name, value in given.items()}
    exact = {name: None if value is None else value.double() for name, value in given.items()}
    with (
        forced(ONE_ROW.name, {"BLOCK_OUT": 8, "BLOCK_IN": 64}),
        forced(FEW_ROWS.name, {"BLOCK_OUT": 16, "BLOCK_IN": 64}),
    ):
        if kind:
            assert_close(kind, gated_linear(**given, kind=kind), reference.gated_linear(**exact, kind=kind))  # type: ignore[arg-type]
        else:
            assert_close("linear", linear(**given), reference.linear(**exact))  # type: ignore[arg-type]


@pytest.mark.parametrize("size_in", [100, 4096, 14336])
@pytest.mark.parametrize("is_gated", [False, True])
def test_rules_are_in_their_spaces(size_in: int, is_gated: bool) -> None:
    key = tuning_key(size_in, 4096, torch.bfloat16, is_gated=is_gated)
    for tunable in (ONE_ROW, FEW_ROWS):
        assert tunable.rule(key) in tunable.space(key) or size_in == 100
        assert 1 <= len(tunable.space(key)) <= 40
