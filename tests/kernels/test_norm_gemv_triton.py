"""A projection with the norm before it in Triton against the float64 reference: one token, few and many."""

# pyright: basic
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from llmc.kernels.gpu.tuning import forced
from llmc.kernels.linear import reference
from llmc.kernels.linear.triton_gemv import FEW_ROWS
from llmc.kernels.linear.triton_norm_gemv import NORMED_ROW, add_rms_norm_linear, rms_norm_linear
from llmc.kernels.tolerance import TOLERANCE

from .conditioned import assert_conditioned
from .gpu import DEVICE, DTYPES


@given(
    rows=st.sampled_from([1, 1, 1, 3, 9]),
    size_in=st.sampled_from([7, 100]),
    size_out=st.sampled_from([1, 18]),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    offset=st.sampled_from([0.0, 1.0]),
    kind=st.sampled_from([None, "silu", "gelu_tanh"]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_values(
    rows: int, size_in: int, size_out: int, flags: tuple[bool, bool, bool], offset: float, kind: str | None,
    dtype: torch.dtype, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    has_delta, has_norm, has_bias = flags
    size = 2 * size_out if kind else size_out
    given = {name: 3.0 * torch.randn(rows, 1, size_in) for name in (("delta", "residual") if has_delta else ("x",))}
    given["weight"] = torch.randn(size, size_in) / size_in**0.5
    given |= {"bias": torch.randn(size)} if has_bias else {}
    given |= {"norm_weight": torch.randn(size_in)} if has_norm else {}
    given = {name: value.to(DEVICE, dtype) for name, value in given.items()}
    options = {"eps": 1e-5, "weight_offset": offset, "kind": kind}
    name = "add_rms_norm_linear" if has_delta else "rms_norm_linear"
    blocks = {"BLOCK_IN": 64, "BLOCK_OUT": 16}
    with forced(NORMED_ROW.name, blocks), forced(FEW_ROWS.name, blocks):
        actual = (add_rms_norm_linear if has_delta else rms_norm_linear)(**given, **options)  # type: ignore[arg-type]

    def numbered(out: Tensor | tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {f"{name}.{index}": one for index, one in enumerate(out if isinstance(out, tuple) else (out,))}

    # With more tokens the normalised ones are rounded twice, and the product once more.
    assert_conditioned(
        numbered(actual),
        lambda wide: numbered(getattr(reference, name)(**wide, **options)),
        given,
        dtype=dtype,
        tolerance=3 * TOLERANCE[dtype],
    )
