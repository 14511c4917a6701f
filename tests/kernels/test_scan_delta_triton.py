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

from llmc.kernels.scan import triton_cut
from llmc.kernels.scan.triton_delta import scan, serves

from .scan_cases import Case, cases, compare_gradients, request

DECAYS = ("none", "head", "state", "token_head", "token_channel")
SIZES = {"tokens": (0, 1, 9, 17), "key_dims": (5, 16), "value_dims": (3, 20), "groups": 1}
CASES = st.one_of(
    cases(decays=("state", "token_channel"), **SIZES),  # type: ignore[arg-type]
    cases(updates=("delta", "erase_write"), decays=DECAYS, **SIZES),  # type: ignore[arg-type]
)


@settings(max_examples=settings().max_examples // 2)
@given(CASES, st.sampled_from([triton_cut.SUB, triton_cut.CHUNK]))
def test_values_states_and_gradients(case: Case, chunk: int) -> None:
    """Chunks of one sub-block or of two, spans of one or of two segments, so that few tokens make several: an
    interpreter takes a tenth of a second for a sub-block. What is solved in float32 adds the rounding of its right side
    to that of the products. A float16 below 6e-5 has few digits, as in the scan of one factor a head."""
    is_faint = case.dtype == torch.float16 and case.strength > 10.0
    few = replace(case, batch=1 if case.shared > 1 else case.batch)
    with mock.patch.multiple(triton_cut, CHUNK=chunk, HELD=2 * triton_cut.SUB, SHORTEST=1):
        compare_gradients(scan, few, slack=16.0 if is_faint else 2.0)


@pytest.mark.parametrize("update", ["add", "delta", "erase_write"])
def test_a_chunk_of_three_sub_blocks(update: str) -> None:
    """Pairs of tokens span the one in the middle; and the keys take two blocks."""
    case = Case(
        update=update, decay_per="token_head" if update == "delta" else "token_channel", tokens=33,
        key_dim=70 if update == "delta" else 20, value_dim=5, has_state=True, has_dt=True, has_skip=True,
        strength=300.0 if update == "add" else 0.1, padding=0.1, seed=5,
    )  # fmt: skip
    compare_gradients(scan, case)


@pytest.mark.parametrize(
    ("update", "shortest", "segment", "spans"),
    [
        ("add", 1, 16, [(0, 32), (32, 8)]),
        ("delta", 1, 16, [(0, 32), (32, 8)]),
        ("erase_write", 1, 16, [(0, 32), (32, 8)]),
        ("delta", 2, 32, [(0, 64)]),
    ],
)
def test_segments_of_spans(update: str, shortest: int, segment: int, spans: list[tuple[int, int]]) -> None:
    """A span of two segments and one of a segment alone; and segments of two chunks, which do not commute."""
    case = Case(
        update=update, decay_per="token_channel" if update == "add" else "token_head", tokens=sum(spans[-1]),
        key_dim=20, value_dim=5, has_state=True, padding=0.1, seed=3,
    )  # fmt: skip
    with mock.patch.multiple(triton_cut, CHUNK=triton_cut.SUB, HELD=32 * shortest, SHORTEST=shortest):
        found = triton_cut.cut(tokens=case.tokens, heads=1, key_dim=20, value_dim=5, is_solved=update != "add")
        assert (found.segment, found.spans()) == (segment, spans)
        compare_gradients(scan, case, slack=2.0)


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
