"""The scan in chunks in Triton against the float64 reference: groups, ragged rows, strong decays, long rows cut."""

# pyright: basic
from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from hypothesis import given, settings

from llmc.kernels.scan import triton_segments
from llmc.kernels.scan.triton_chunked import scan

from .scan_cases import Case, cases, compare, compare_gradients

SIZES = {"decays": ("none", "head", "token_head"), "key_dims": (3, 16, 20), "value_dims": (5, 16, 33)}


@given(cases(**SIZES, tokens=(0, 1, 17, 64, 65, 130)))  # type: ignore[arg-type]
def test_one_factor_a_head(case: Case) -> None:
    compare(scan, case)


def test_a_long_row_is_cut_into_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_segments, "SHORTEST", 1)
    compare(
        scan,
        Case(
            decay_per="token_head", tokens=300, batch=2, shared=2, key_dim=5, value_dim=3, has_state=True, has_dt=True,
            padding=0.3, seed=4,
        ),
    )  # fmt: skip


@settings(max_examples=settings().max_examples // 2)
@given(cases(**SIZES, tokens=(1, 17, 65)))  # type: ignore[arg-type]
def test_gradients(case: Case) -> None:
    """Products are rounded before they are multiplied again; a float16 below 6e-5, what is left of a strong decay, has
    few digits."""
    is_faint = case.dtype == torch.float16 and case.strength > 10.0
    compare_gradients(scan, case, slack=16.0 if is_faint else 2.0)
