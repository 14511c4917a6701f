"""Sampling against transformers' processors, and its own promises: reproducible, row-independent, never NaN."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

import math

import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llmc.runtime.sampling import Sampler, Sampling, filter_logits, penalise_repetition, top_logprobs
from llmc.specs.diagnostics import LlmcError

SETTINGS = [
    {"temperature": 0.7},
    {"temperature": 1.0, "top_k": 5},
    {"temperature": 1.3, "top_p": 0.8},
    {"temperature": 0.9, "min_p": 0.1},
    {"temperature": 1.0, "top_k": 40, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.3},
    {"temperature": 2.0, "top_k": 500, "top_p": 0.01, "repetition_penalty": 0.7},
    {"temperature": 1.5, "top_p": 0.95, "min_p": 1.0},
    {"temperature": 1e-4, "top_k": 3},
]


def oracle(sampling: Sampling, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    processors = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)))
    processors.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        processors.append(MinPLogitsWarper(sampling.min_p))
    return processors(ids, logits.clone()).softmax(-1)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_filtered_distribution_equals_transformers(setting: dict[str, float]) -> None:
    sampling = Sampling(**setting)  # pyright: ignore[reportArgumentType]
    torch.manual_seed(0)
    logits = torch.randn(64, 301) * 3
    ids = torch.randint(0, 301, (64, 17))
    expected = oracle(sampling, ids, logits)
    scores = penalise_repetition(logits, ids.tolist(), sampling.repetition_penalty)
    actual = filter_logits(scores, sampling).softmax(-1)
    assert ((actual > 0) == (expected > 0)).all()
    torch.testing.assert_close(actual, expected, rtol=2e-3 if sampling.temperature < 0.01 else 1e-5, atol=1e-6)


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0, 3.0, -math.inf]])
    sampler = Sampler(Sampling(temperature=1.0, top_k=4), 6)
    counts = torch.zeros(6)
    for _ in range(4000):
        counts[sampler.next(logits, [[]]).tokens[0]] += 1
    expected = filter_logits(logits, sampler.sampling).softmax(-1)[0]
    assert counts[3] == counts[5] == 0
    assert float((counts / 4000 - expected).abs().max()) < 0.03


def test_row_does_not_depend_on_the_others() -> None:
    sampling = Sampling(temperature=1.0, top_p=0.9, seed=7)
    torch.manual_seed(1)
    steps = torch.randn(20, 4, 97) * 2
    together = Sampler(sampling, 97)
    full = [together.next(logits, [[]] * 4).tokens for logits in steps]
    for row in range(4):
        alone = Sampler(sampling, 97)
        tokens = [alone.next(logits[row : row + 1], [[]], rows=[row]).tokens[0] for logits in steps]
        assert tokens == [step[row] for step in full]
    assert len({tuple(column) for column in zip(*full, strict=True)}) == 4
    other = Sampler(Sampling(temperature=1.0, top_p=0.9, seed=8), 97)
    assert [other.next(logits, [[]] * 4).tokens for logits in steps] != full
    same = torch.randn(1, 997).expand(6, -1)
    assert len(set(Sampler(Sampling(temperature=1.0), 997).next(same, [[]] * 6).tokens)) > 3


def test_greedy() -> None:
    logits = torch.zeros(2, 1001, dtype=torch.bfloat16)
    logits[1, 500] = logits[1, 900] = 1
    drawn = Sampler(Sampling(), 1001).next(logits, [[], []], wants_logprobs=True)
    assert drawn.tokens == [0, 500]
    assert drawn.logprobs is not None
    assert drawn.logprobs[0] == pytest.approx(-math.log(1001))
    penalised = Sampler(Sampling(repetition_penalty=1.5), 1001).next(logits, [[], [500, 5000, -1]])
    assert penalised.tokens == [0, 900]


def test_extreme_logits() -> None:
    logits = torch.tensor([[3e38, -3e38, 0.0], [-math.inf, -1e30, -math.inf]])
    for temperature in (1e-38, 1e-3, 1e30):
        tokens = Sampler(Sampling(temperature=temperature, top_p=0.9, min_p=0.01), 3).next(logits, [[], []]).tokens
        assert tokens[1] == 1


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nan_is_never_served(poison: float, temperature: float) -> None:
    logits = torch.randn(3, 50)
    logits[1, 49] = poison
    with pytest.raises(LlmcError, match=r"E0856.*row 5.*1 of 3"):
        Sampler(Sampling(temperature=temperature), 50).next(logits, [[]] * 3, rows=[4, 5, 6])


def test_no_finite_logit() -> None:
    with pytest.raises(LlmcError, match="E0856"):
        Sampler(Sampling(), 4).next(torch.full((1, 4), -math.inf), [[]])


def test_top_logprobs() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0]])
    (pairs,) = top_logprobs(logits, 3)
    assert [id for id, _ in pairs] == [1, 2, 0]
    assert pairs[0][1] == pytest.approx(float(logits.log_softmax(-1)[0, 1]))
    assert len(top_logprobs(logits, 10)[0]) == 4


WRONG = [
    {"temperature": -1}, {"temperature": math.nan}, {"temperature": math.inf}, {"top_k": -1}, {"top_k": 1.5},
    {"top_k": True}, {"top_p": 0}, {"top_p": 1.1}, {"top_p": math.nan}, {"min_p": -0.1}, {"min_p": 2},
    {"repetition_penalty": 0}, {"repetition_penalty": math.inf}, {"seed": -1}, {"seed": 2**63}, {"seed": 0.5},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(LlmcError, match=f"E0855 {next(iter(wrong))}"):
        Sampling(**wrong)  # pyright: ignore[reportArgumentType]


def test_all_mistakes_at_once() -> None:
    with pytest.raises(LlmcError) as caught:
        Sampling(temperature=-1, top_p=7)
    assert len(caught.value.diagnostics) == 2
