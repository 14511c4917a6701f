"""Sampling in Triton against its definition, token by token, and the definition against the runtime's filters."""

# pyright: basic
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from llmc.kernels.gpu.tuning import forced
from llmc.kernels.sampling import reference
from llmc.kernels.sampling.triton_sample import PICK, sample
from llmc.runtime.sampling import Sampling, filter_logits, penalise_repetition

from .gpu import DEVICE, DTYPES


def settings(batch: int, **given: Tensor) -> dict[str, Tensor]:
    """Every setting off but for the given ones."""
    off = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0}
    made = {name: torch.full((batch,), value) for name, value in {**off, "frequency_penalty": 0.0}.items()}
    made["top_k"] = torch.zeros(batch, dtype=torch.int32)
    made["seed"] = made["step"] = torch.zeros(batch, dtype=torch.int64)
    return {name: value.to(DEVICE) for name, value in {**made, **given}.items()}


def one_of(*values: float) -> Tensor:
    """One of the values for each of two rows."""
    return torch.tensor(values, dtype=torch.float32)[torch.randint(len(values), (2,))]


@given(
    size=st.sampled_from([1, 40, 150]),
    spread=st.sampled_from([0.0, 0.3, 3.0, 30.0]),
    has_ties=st.booleans(),
    has_seen=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_picks_what_the_definition_picks(
    size: int, spread: float, has_ties: bool, has_seen: bool, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(2, size) * spread
    logits = (logits.round() if has_ties else logits).to(DEVICE, dtype)
    given = settings(
        2,
        temperature=one_of(0.0, 0.5, 1.0, 1.7),
        top_k=one_of(0, 1, 7, 90, 1000).int(),
        top_p=one_of(1.0, 0.3, 0.75, 0.9, 0.999),
        min_p=one_of(0.0, 0.0, 0.05, 0.5),
        repetition_penalty=one_of(1.0, 1.3),
        presence_penalty=one_of(0.0, 0.5),
        frequency_penalty=one_of(0.0, 0.25),
        seed=torch.randint(2**62, (2,)),
        step=torch.randint(2**40, (2,)),
    )
    seen = torch.randint(-2, 4, (2, size)).clamp(min=0).int().to(DEVICE) if has_seen else None
    ours, theirs = (None if seen is None else seen.clone() for _ in range(2))
    with forced(PICK.name, {"CHUNK": 128, "BLOCK": 128}):
        actual = sample(logits=logits, **given, seen=ours)
    expected = reference.sample(logits=logits, **given, seen=theirs)
    assert torch.equal(actual, expected)
    if seen is not None and ours is not None and theirs is not None:
        assert torch.equal(ours, theirs)
        assert (ours - seen).sum() >= 2


@given(
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 7, 90]),
    top_p=st.sampled_from([1.0, 0.3, 0.75, 0.9]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
    penalty=st.sampled_from([1.0, 1.3]),
    has_ties=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_the_definition_keeps_what_the_runtime_keeps(
    temperature: float, top_k: int, top_p: float, min_p: float, penalty: float, has_ties: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(3, 100) * 3.0
    logits = logits.round() if has_ties else logits
    history = [[1, 5, 5, 99], [], [7]]
    seen = torch.zeros(3, 100, dtype=torch.int32)
    for row, tokens in enumerate(history):
        seen[row, tokens] = 1
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=penalty)
    expected = filter_logits(penalise_repetition(logits, history, penalty), sampling)
    every = torch.ones(3)
    scores = reference.penalised(logits, seen, every * penalty, every * 0, every * 0)
    scores = (scores - scores.amax(-1, keepdim=True)) / temperature
    kept = reference.kept(scores, every.int() * top_k, every * top_p, every * min_p)
    assert torch.equal(kept, expected.isfinite())


def test_words_are_philox() -> None:
    """Random123's known answers for zeros, and for a key and a counter of ones."""
    zero, ones = torch.zeros(1, dtype=torch.int64), torch.full((1,), -1)
    assert reference.random_words(zero, zero).tolist() == [0x6627E8D5]
    assert reference.random_words(ones, ones).tolist() != reference.random_words(zero, zero).tolist()


def test_shares_do_not_overflow() -> None:
    totals, words = [0, 1, 2**40, 2**59 - 1, 12345678901234567], [2**32 - 1, 7, 2**31, 2**32 - 1, 987654321]
    found = reference.share_of(torch.tensor(totals), torch.tensor(words))
    assert found.tolist() == [total * word >> 32 for total, word in zip(totals, words, strict=True)]


def test_a_token_does_not_depend_on_the_batch() -> None:
    logits = torch.randn(3, 50, device=DEVICE) * 0.1
    given = settings(3, seed=torch.tensor([5, 5, 6]), step=torch.tensor([1, 1, 1]), top_p=torch.full((3,), 0.9))
    whole = sample(logits=logits, **given)
    alone = [sample(logits=logits[i : i + 1], **{n: v[i : i + 1] for n, v in given.items()}) for i in range(3)]
    assert torch.equal(whole, torch.cat(alone))


def test_rows_without_a_finite_largest_logit_have_no_token() -> None:
    logits = torch.randn(5, 40, device=DEVICE)
    logits[0, 3], logits[1, 2], logits[2] = torch.nan, torch.inf, -torch.inf
    logits[3, :] = -torch.inf
    logits[3, 7] = 0.0
    seen = torch.zeros(5, 40, dtype=torch.int32, device=DEVICE)
    for temperature in (0.0, 1.0):
        tokens = sample(logits=logits, **settings(5, temperature=torch.full((5,), temperature)), seen=seen).tolist()
        assert tokens[:4] == [-1, -1, -1, 7]
        assert tokens[4] >= 0
    assert seen.sum().item() == 3 + (2 + 2 if seen[4].count_nonzero() == 2 else 3)


def test_frequencies_are_those_of_the_distribution() -> None:
    """Many rows that differ in their seed only: counts within five standard deviations of what softmax says."""
    rows = 512
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0, 1.5]])
    given = settings(rows, seed=torch.arange(rows))
    tokens = reference.sample(logits=logits.expand(rows, -1).to(DEVICE), **given).cpu()
    expected = logits[0].softmax(-1) * rows
    deviation = (expected * (1 - expected / rows)).sqrt()
    assert ((tokens.bincount(minlength=5) - expected).abs() < 5 * deviation).all()
