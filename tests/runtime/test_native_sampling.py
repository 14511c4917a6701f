"""Sampled decoding in machine code: the tokens of a seed are those that Python draws from the same logits."""

from __future__ import annotations

import pytest

import llmc
from llmc.runtime.generate import Stream
from llmc.runtime.model import LanguageModel
from llmc.runtime.native.executor import NativeExecutor

PROMPTS = [[5, 3, 9, 1, 7], [2, 8], [11, 4, 6]]
SETTINGS = [
    {"temperature": 1.0},
    {"temperature": 0.8, "top_k": 12},
    {"temperature": 1.4, "top_p": 0.8, "repetition_penalty": 1.5},
    {"temperature": 1.0, "top_k": 40, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 0.8},
    {"temperature": 0.0, "repetition_penalty": 1.3},
]


def loaded(spec: str = "llama_tiny") -> LanguageModel:
    model = llmc.load(spec, seed=3)
    if not isinstance(model.executor(), NativeExecutor):
        pytest.skip("there is no machine code here")
    return model


def tokens(model: LanguageModel, **options: object) -> list[list[int]]:
    return [row.tokens for row in model.generate(PROMPTS, max_new_tokens=30, **options)]


class InPython:
    """Leaves the passes to machine code and takes the bursts away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch

    def tokens(self, model: LanguageModel, **options: object) -> list[list[int]]:
        with self.patch.context() as patch:
            patch.setattr(NativeExecutor, "can_decode", False)
            return tokens(model, **options)


@pytest.fixture
def in_python(monkeypatch: pytest.MonkeyPatch) -> InPython:
    return InPython(monkeypatch)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_tokens_are_those_that_python_draws(setting: dict[str, float], in_python: InPython) -> None:
    model = loaded()
    drawn = tokens(model, seed=9, ignore_eos=True, **setting)
    assert drawn == in_python.tokens(model, seed=9, ignore_eos=True, **setting)
    assert drawn == tokens(model, seed=9, ignore_eos=True, **setting)
    assert drawn != tokens(model, ignore_eos=True)
    if setting["temperature"]:
        assert drawn != tokens(model, seed=10, ignore_eos=True, **setting)


def test_rows_end_by_themselves(in_python: InPython) -> None:
    model = loaded()
    options = {"temperature": 1.0, "seed": 2}
    free = tokens(model, ignore_eos=True, **options)
    ends = [free[0][3], free[2][17]]
    found = tokens(model, ignore_eos=True, stop_ids=ends, **options)
    assert found == in_python.tokens(model, ignore_eos=True, stop_ids=ends, **options)
    for row, whole in zip(found, free, strict=True):
        assert row == whole[: len(row)]
        assert len(row) == 30 or row[-1] in ends
    assert len(found[0]) <= 4


def test_a_row_does_not_depend_on_the_batch_nor_on_bursts() -> None:
    model = loaded()
    options = {"temperature": 1.2, "top_p": 0.95, "repetition_penalty": 1.2, "seed": 5, "ignore_eos": True}
    alone = model.generate(PROMPTS[0], max_new_tokens=30, **options).tokens
    assert tokens(model, **options)[0] == alone
    stream = model.generate(PROMPTS[0], max_new_tokens=30, stream=True, **options)
    assert isinstance(stream, Stream)
    assert not "".join(stream)
    assert stream.generation.tokens == alone


def test_a_state_of_constant_size_is_sampled_as_well(in_python: InPython) -> None:
    model = loaded("hydra_tiny")
    options = {"temperature": 1.0, "seed": 4, "ignore_eos": True}
    assert model.executor().can_decode
    assert tokens(model, **options) == in_python.tokens(model, **options)
