"""The scan token by token in Triton against the float64 reference: every law, ragged rows, states in place."""

# pyright: basic
from __future__ import annotations

import pytest

pytest.importorskip("triton")

from hypothesis import given

from llmc.kernels.kernel import Request
from llmc.kernels.scan.triton_step import scan, serves

from .scan_cases import Case, cases, compare

DECAYS = ("none", "head", "state", "token_head", "token_channel")


@given(
    cases(
        updates=("add", "delta", "erase_write"), decays=DECAYS, tokens=(0, 1, 3), key_dims=(1, 3, 16),
        value_dims=(1, 5, 20),
    )
)  # fmt: skip
def test_values_and_states(case: Case) -> None:
    compare(scan, case)


@pytest.mark.parametrize(
    ("phase", "dtype", "key_dim", "reason"),
    [
        ("decode", "bfloat16", 128, None),
        ("prefill", "float32", 16, None),
        ("train", "float32", 16, "no gradients: the states between tokens are not kept"),
        ("decode", "float64", 16, "states are float32"),
        ("decode", "float32", 1024, "a key of 1024 elements is longer than 512"),
    ],
)
def test_refusals(phase: str, dtype: str, key_dim: int, reason: str | None) -> None:
    request = Request(op="scan", fields={"key_dim": key_dim}, shapes={}, dtype=dtype, device="cuda", phase=phase)  # type: ignore[arg-type]
    assert serves(request) == reason
