"""The scan of channels with small states in Triton against the float64 reference: ragged rows, long rows cut."""

# pyright: basic
from __future__ import annotations

import pytest

pytest.importorskip("triton")

from hypothesis import given, settings

from llmc.kernels.scan import triton_segments, triton_selective_backward
from llmc.kernels.scan.triton_selective import scan

from .scan_cases import Case, cases, compare, compare_gradients


@given(
    cases(
        decays=("head", "state"), tokens=(0, 1, 2, 9), key_dims=(1, 3, 16), value_dims=(1,), groups=1, shared=40
    )
)  # fmt: skip
def test_values_and_states(case: Case) -> None:
    compare(scan, case)


@settings(max_examples=settings().max_examples // 4)
@given(
    cases(
        decays=("head", "state"), tokens=(1, 9, 11), key_dims=(3, 4), value_dims=(1,), groups=1, shared=40
    )
)  # fmt: skip
def test_gradients(case: Case) -> None:
    compare_gradients(scan, case)


def test_gradients_of_a_long_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_selective_backward, "SEGMENT", 8)
    case = Case(
        decay_per="state", decay_form="A_log", tokens=21, shared=3, key_dim=4, value_dim=1, has_dt=True, has_skip=True,
        padding=0.3, strength=1.0, seed=4,
    )  # fmt: skip
    compare_gradients(scan, case)


def test_a_long_row_is_cut_into_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_segments, "SHORTEST", 1)
    case = Case(
        decay_per="state", decay_form="A_log", tokens=37, shared=5, key_dim=4, value_dim=1, has_state=True, has_dt=True,
        padding=0.3, strength=1.0, seed=4,
    )  # fmt: skip
    compare(scan, case)


@pytest.mark.parametrize("changes", [{"value_dim": 2}, {"update": "delta"}, {"decay_per": "token_head"}])
def test_what_is_refused_is_not_computed(changes: dict[str, object]) -> None:
    from .scan_cases import operands

    given, _ = operands(Case(decay_per="state", value_dim=1))
    with pytest.raises(ValueError, match="no channels of"):
        scan(**given | changes)  # type: ignore[arg-type]
