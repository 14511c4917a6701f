"""A beam search's step in Triton against its definition, and rows of states that go on from others."""

# pyright: basic
from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from llmc.kernels.cache.rows import copy_rows
from llmc.kernels.cache.triton_rows import RowCopies
from llmc.kernels.sampling import beam_reference, triton_beams
from llmc.kernels.sampling.fields import AdvanceBeams, BeamState
from llmc.runtime.beam_settings import BeamSettings

from .gpu import DEVICE


@pytest.mark.parametrize(
    ("size", "count", "has_ties", "has_seen", "has_banned", "seed"),
    [(9, 6, True, True, True, 0), (200, 3, False, True, False, 1), (200, 2, True, False, True, 2)],
)
def test_continuations(size: int, count: int, has_ties: bool, has_seen: bool, has_banned: bool, seed: int) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(3, size) * 3
    logits = (logits.round() if has_ties else logits).to(DEVICE)
    given = {
        "logits": logits, "score": (torch.randn(3) * 9).to(DEVICE), "width": count,
        "repetition_penalty": torch.full((1,), 1.3, device=DEVICE),
        "seen": torch.randint(2, (3, size)).to(DEVICE, torch.uint8) if has_seen else None,
        "banned": torch.tensor([1, int(logits[0].argmax()), -1], device=DEVICE) if has_banned else None,
    }  # fmt: skip
    value, token = triton_beams.best_continuations(**given)
    expected, best = beam_reference.best_continuations(**given)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    if has_ties or size == 9:
        assert torch.equal(token, best)
    assert (value[:, 1:] <= value[:, :-1]).all()


def test_a_row_of_nan_has_no_best_score() -> None:
    logits = torch.randn(2, 9, device=DEVICE)
    logits[1, 4] = torch.nan
    value, _ = triton_beams.best_continuations(
        logits=logits, score=torch.zeros(2, device=DEVICE), width=2, repetition_penalty=torch.ones(1, device=DEVICE)
    )
    assert value[0].isfinite().all()
    assert not value[1].isfinite().any()


def begun(prompts: int, beams: int, length: int) -> BeamState:
    whole = {"dtype": torch.int64, "device": DEVICE}
    return BeamState(
        score=torch.tensor([0.0, *[beam_reference.NEVER] * (beams - 1)], device=DEVICE).repeat(prompts, 1),
        row=torch.arange(beams, device=DEVICE).repeat(prompts, 1),
        common=torch.full((prompts, beams, beams), length, **whole),
        kept_score=torch.full((prompts, beams), beam_reference.NEVER, device=DEVICE),
        **{name: torch.zeros(prompts, beams, **whole) for name in ("kept_step", "kept_parent", "kept_token")},
        is_open=torch.full((prompts,), True, device=DEVICE),
        is_broken=torch.full((prompts,), False, device=DEVICE),
    )


@pytest.mark.parametrize(
    ("beams", "early", "penalty", "has_ties", "seed"),
    [(2, True, -1.0, True, 0), (3, False, 1.5, False, 1), (4, "never", 0.0, True, 2)],
)
def test_steps(beams: int, early: bool, penalty: float, has_ties: bool, seed: int) -> None:
    """Several in a row, with a vocabulary of which two tokens of seven end a text; one prompt breaks."""
    torch.manual_seed(seed)
    prompts, width, start = 2, 3 * beams, 5
    settings = BeamSettings(num_beams=beams, early_stopping=early, length_penalty=penalty)
    ours, theirs = begun(prompts, beams, start), begun(prompts, beams, start)
    ends = torch.tensor([2, 4, -1], device=DEVICE)
    for step in range(6):
        found = torch.randn(prompts, beams, width).sort(dim=-1, descending=True).values - 2
        value = ((found.round() if has_ties else found) + ours.score.cpu()[..., None]).flatten(0, 1)
        if step == 4:
            value[0] = torch.nan
        given = AdvanceBeams(
            value=value.to(DEVICE),
            token=torch.randint(7, value.shape).to(DEVICE),
            rule=torch.tensor(settings.rule(step + 1, 6), device=DEVICE),
            ends=ends,
            length=torch.full((prompts * beams,), start + step, device=DEVICE),
            step=torch.tensor([step], device=DEVICE),
        )
        actual = triton_beams.advance_beams(given, ours)
        expected = beam_reference.advance_beams(given, theirs)
        is_open = theirs.is_open
        for name, one, other in zip(("next", "source", "first", "chosen", "parent"), actual, expected, strict=True):
            one, other = (x.view(prompts, beams)[is_open] for x in (one, other))
            assert torch.equal(one, other), (step, name)
        for name, one, other in zip(BeamState._fields, ours, theirs, strict=True):
            if name in ("score", "row", "common"):
                one, other = one[is_open], other[is_open]
            elif name in ("kept_parent", "kept_token"):
                one, other = (x[theirs.kept_step > 0] for x in (one, other))
            assert torch.equal(one, other), (step, name)
    assert not ours.is_open.any()


def test_rows_go_on_from_others() -> None:
    torch.manual_seed(3)
    parts = [
        (torch.randn(4, 2, 12, 5), False), (torch.randn(4, 1, 6, 3), False), (torch.randn(4, 3, 7), True),
        (torch.randn(4, 2, 12), False), (torch.randint(9, (4, 10)).to(torch.uint8), True),
    ]  # fmt: skip
    ours, theirs = ([(buffer.clone().to(DEVICE), is_whole) for buffer, is_whole in parts] for _ in range(2))
    moves = {
        "source": torch.tensor([0, 0, 2, 2], device=DEVICE),
        "first": torch.tensor([9, 4, 9, 8], device=DEVICE),
        "length": torch.tensor([9, 9, 9, 9], device=DEVICE),
    }
    RowCopies(ours, torch.device(DEVICE))(**moves)
    copy_rows(theirs, **moves)
    for (one, _), (other, _), (before, _) in zip(ours, theirs, parts, strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, before.to(DEVICE))
