"""The same spec, weights and seed give the same tokens, and other rows of the batch change nothing."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import pytest
import torch

import llmc
from llmc.runtime.model import LanguageModel

from .families import VOCAB, each_causal
from .reference import Golden
from .running import RUNS, Run, named

PROMPT = [3, 14, 15, 92, 65, 35, 89, 79]
SAMPLED = {"temperature": 1.3, "top_k": 40, "top_p": 0.95, "ignore_eos": True}
NEW = 16


def sample(model: LanguageModel, seed: int) -> list[int]:
    return model.generate(PROMPT, max_new_tokens=NEW, seed=seed, **SAMPLED).tokens


@each_causal
def test_same_seed_same_tokens(golden: Golden, model: LanguageModel) -> None:
    first = sample(model, 7)
    assert len(set(first)) > 5
    for _ in range(3):
        assert sample(model, 7) == first
    assert sample(llmc.load(golden.folder), 7) == first
    assert len({tuple(sample(model, seed)) for seed in range(5)}) == 5


@pytest.mark.slow
@each_causal
def test_a_hundred_times(golden: Golden, model: LanguageModel) -> None:
    first = sample(model, 7)
    greedy = model.generate(PROMPT, max_new_tokens=NEW, ignore_eos=True).tokens
    for index in range(100):
        again = llmc.load(golden.folder) if index % 10 == 0 else model
        assert sample(again, 7) == first
        assert again.generate(PROMPT, max_new_tokens=NEW, ignore_eos=True).tokens == greedy


@each_causal
@pytest.mark.parametrize("others", [1, 4])
def test_other_rows_change_no_token(golden: Golden, model: LanguageModel, others: int) -> None:
    strangers = [torch.randint(0, VOCAB, (1 + 5 * i,)).tolist() for i in range(others)]
    alone = sample(model, 3)
    batch = model.generate([PROMPT, *strangers], max_new_tokens=NEW, seed=3, **SAMPLED)
    assert batch[0].tokens == alone
    greedy = model.generate(PROMPT, max_new_tokens=NEW, ignore_eos=True).tokens
    for place in range(others + 1):
        prompts = [*strangers[:place], PROMPT, *strangers[place:]]
        assert model.generate(prompts, max_new_tokens=NEW, ignore_eos=True)[place].tokens == greedy


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_other_rows_change_no_output(golden: Golden, model: LanguageModel, run: Run) -> None:
    alone = run(model, golden.tokens[:1])
    again = run(model, golden.tokens[:1])
    strangers = torch.randint(0, VOCAB, (6, golden.tokens.shape[1]))
    together = run(model, torch.cat([strangers[:2], golden.tokens[:1], strangers[2:]]))
    for name, value in alone.items():
        assert torch.equal(value, again[name]), name
        assert (together[name][2] - value[0]).abs().max() < golden.rounding_apart(name), name


def test_initialisation_depends_on_the_seed_only(golden: Golden) -> None:
    family = golden.family
    first, again, other = (llmc.load(family.spec, params=dict(family.params), seed=seed) for seed in (5, 5, 6))
    ours, same, unlike = (dict(model.named_parameters(remove_duplicate=False)) for model in (first, again, other))
    assert ours.keys() == same.keys()
    for path, value in ours.items():
        assert torch.equal(value, same[path]), path
        is_fixed = value.std() == 0 or path.endswith("A_log")
        assert is_fixed or not torch.equal(value, unlike[path]), path
    for name, value in named(first(golden.tokens)).items():
        assert torch.isfinite(value).all(), name
