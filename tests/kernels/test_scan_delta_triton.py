"""The scan in chunks of erased states and of channels with their own decay in Triton, by the float64 reference."""

# pyright: basic
from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
import torch

pytest.importorskip("triton")

from hypothesis import given, settings
from hypothesis import strategies as st

from llmc.kernels.scan import triton_prepared
from llmc.kernels.scan.triton_delta import scan, serves

from .scan_cases import Case, cases, compare, compare_gradients, request

DECAYS = ("none", "head", "state", "token_head", "token_channel")
SIZES = {"tokens": (1, 9, 20), "key_dims": (5, 16), "value_dims": (3, 20), "groups": 1}
"""Two sub-blocks of tokens at most: an interpreter takes a second for a chunk."""
CASES = st.one_of(
    cases(decays=("state", "token_channel"), **SIZES),  # type: ignore[arg-type]
    cases(updates=("delta", "erase_write"), decays=DECAYS, **SIZES),  # type: ignore[arg-type]
)


@settings(max_examples=settings().max_examples // 2)
@given(CASES)
def test_values_and_states(case: Case) -> None:
    """What is solved in float32 adds the rounding of its right side to that of the products."""
    compare(scan, case, slack=1.0 if case.update == "add" else 2.0)


@pytest.mark.parametrize("update", ["add", "delta", "erase_write"])
def test_more_than_a_chunk(update: str) -> None:
    case = Case(
        update=update, decay_per="token_channel", tokens=70, key_dim=20, value_dim=5, has_state=True, has_dt=True,
        has_skip=True, strength=300.0 if update == "add" else 0.1, padding=0.1, seed=3,
    )  # fmt: skip
    compare(scan, case, slack=2.0)


GRADIENTS = SIZES | {"tokens": (0, 1, 9, 17)}


@settings(max_examples=settings().max_examples // 4)
@given(
    st.one_of(
        cases(decays=("state", "token_channel"), **GRADIENTS),  # type: ignore[arg-type]
        cases(updates=("delta", "erase_write"), decays=DECAYS, **GRADIENTS),  # type: ignore[arg-type]
    )
)
def test_gradients(case: Case) -> None:
    """In chunks of one sub-block, so that few tokens make several. A float16 below 6e-5 has few digits, as in the scan
    of one factor a head."""
    is_faint = case.dtype == torch.float16 and case.strength > 10.0
    few = replace(case, batch=1 if case.shared > 1 else case.batch)
    with mock.patch.object(triton_prepared, "CHUNK", triton_prepared.SUB):
        compare_gradients(scan, few, slack=16.0 if is_faint else 2.0)


@pytest.mark.parametrize("update", ["add", "delta", "erase_write"])
def test_gradients_of_a_chunk_of_three_sub_blocks(update: str) -> None:
    """Pairs of tokens span the one in the middle; and the keys take two blocks."""
    case = Case(
        update=update, decay_per="token_head" if update == "delta" else "token_channel", tokens=33,
        key_dim=70 if update == "delta" else 20, value_dim=5, has_state=True, has_dt=True, has_skip=True,
        strength=300.0 if update == "add" else 0.1, padding=0.1, seed=5,
    )  # fmt: skip
    compare_gradients(scan, case)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"update": "delta"}, None),
        ({"decay_per": "token_channel"}, None),
        ({"decay_per": "head"}, "a state that forgets as a whole and is not erased needs no system of equations"),
        ({"update": "delta", "key_dim": 512}, "a key of 512 elements is longer than 256"),
        ({"update": "delta", "value_dim": 1}, "a state of one column has no matrix products"),
        ({"update": "delta", "phase": "decode"}, "one token at a time has no chunks"),
        ({"update": "delta", "phase": "train"}, None),
    ],
)
def test_refusals(changes: dict[str, object], reason: str | None) -> None:
    assert serves(request(**changes)) == reason
