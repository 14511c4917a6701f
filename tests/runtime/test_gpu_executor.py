"""The GPU's way to run a Program, on a CPU: padded prompts, bucketed batches, decode steps in buffers that never move.

Nothing is recorded here; `make gpu` runs the same tests with CUDA graphs.
"""

from __future__ import annotations

from typing import cast

import pytest
import torch

import llmc
from llmc.runtime.batch import Generation
from llmc.runtime.gpu.buckets import batch_rows, capacity, prefill_tokens
from llmc.runtime.gpu.cache_pool import CachePool
from llmc.runtime.gpu.draw_settings import DrawSettings
from llmc.runtime.gpu.executor import GpuExecutor
from llmc.runtime.model import LanguageModel
from llmc.runtime.sampling import Drawing, Sampling
from llmc.runtime.storage import ParameterBinder, tensors_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PROMPTS = [[5, 3, 9, 1, 7], [2, 8], [11, 4, 6]]


def loaded(monkeypatch: pytest.MonkeyPatch, spec: str) -> LanguageModel:
    """A model that a GpuExecutor runs."""
    monkeypatch.setenv("LLMC_NATIVE", "0")
    model = llmc.load(spec, device=DEVICE, seed=3)
    bound = ParameterBinder(model, model.program).bind()
    executor = GpuExecutor(model.program, [tuple(tensors_of(operands)) for operands in bound])
    monkeypatch.setattr(model, "executor", lambda: executor)
    return model


def reference(spec: str, **options: object) -> list[list[int]]:
    model = llmc.load(spec, device=DEVICE, seed=3)
    return [row.tokens for row in model.generate(PROMPTS, **options)]


@pytest.mark.parametrize("spec", ["llama_tiny", "hydra_tiny", "mixtral_tiny"])
def test_tokens_are_those_of_the_usual_way(monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    options = {"max_new_tokens": 12, "ignore_eos": True}
    expected = reference(spec, **options)
    model = loaded(monkeypatch, spec)
    for _ in range(2):  # the second time in the cache of the first
        assert [row.tokens for row in model.generate(PROMPTS, **options)] == expected


def test_rows_end_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    free = reference("llama_tiny", max_new_tokens=12, ignore_eos=True)
    end = free[1][4]
    expected = reference("llama_tiny", max_new_tokens=12, stop_ids=[end])
    model = loaded(monkeypatch, "llama_tiny")
    found = model.generate(PROMPTS, max_new_tokens=12, stop_ids=[end])
    assert [row.tokens for row in found] == expected
    assert len(expected[1]) < 12


def test_penalised_tokens_are_those_of_the_usual_way(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"max_new_tokens": 12, "ignore_eos": True, "repetition_penalty": 1.3}
    expected = reference("llama_tiny", **options)
    model = loaded(monkeypatch, "llama_tiny")
    assert [row.tokens for row in model.generate(PROMPTS, **options)] == expected
    assert expected != reference("llama_tiny", max_new_tokens=12, ignore_eos=True)


def test_drawn_tokens_follow_from_the_seed_and_not_from_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(monkeypatch, "llama_tiny")
    options = {"max_new_tokens": 12, "ignore_eos": True, "temperature": 1.5, "top_k": 20}
    batch = [row.tokens for row in model.generate(PROMPTS, seed=4, **options)]
    assert batch == [row.tokens for row in model.generate(PROMPTS, seed=4, **options)]
    assert batch != [row.tokens for row in model.generate(PROMPTS, seed=5, **options)]
    assert batch[0] == model.generate(PROMPTS[0], seed=4, **options).tokens
    assert batch == reference("llama_tiny", seed=4, **options)


def texts(model: LanguageModel, **options: object) -> list[list[tuple[list[int], float]]]:
    options = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 24, **options}
    found: list[Generation] = model.generate(PROMPTS, **options)
    return [[(one.tokens, round(one.score or 0.0, 3)) for one in (best, *best.others)] for best in found]


@pytest.mark.parametrize("spec", ["llama_tiny", "hydra_tiny"])
def test_beams_are_those_of_the_usual_way(monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    """In bursts; the second request is another one, in the cache and the graph of the first."""
    usual = llmc.load(spec, device=DEVICE, seed=3)
    end = usual.generate(PROMPTS[0], max_new_tokens=12, ignore_eos=True).tokens[5]
    first = {"stop_ids": [end], "ignore_eos": True, "min_new_tokens": 4}
    second = {**first, "length_penalty": 0.0, "early_stopping": True, "min_new_tokens": 0}
    expected = [texts(usual, **options) for options in (first, second)]
    assert expected[0] != expected[1]
    model = loaded(monkeypatch, spec)
    assert [texts(model, **options) for options in (first, second)] == expected


def test_penalised_beams_are_those_of_the_usual_way(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"ignore_eos": True, "repetition_penalty": 1.3}
    expected = texts(llmc.load("llama_tiny", device=DEVICE, seed=3), **options)
    assert texts(loaded(monkeypatch, "llama_tiny"), **options) == expected


def test_a_step_without_active_rows_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(monkeypatch, "hydra_tiny")
    executor = cast("GpuExecutor", model.executor())
    cache = model.new_cache(2, 32)
    with torch.inference_mode():
        model(torch.tensor([[1, 2, 3], [4, 5, 6]], device=DEVICE), cache=cache)
        before = {path: [buffer.clone() for buffer in state] for path, state in cache.states.items()}
        assert executor.decode([-1, -1], [3, 3], cache.states, 4, ()) == [[], []]
    for path, state in cache.states.items():
        for buffer, old in zip(state, before[path], strict=True):
            assert torch.equal(buffer, old)


def test_padding_of_a_prompt_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(monkeypatch, "llama_tiny")
    tokens = torch.tensor([[1, 2, 3, 4, 5]], device=DEVICE)
    cache = model.new_cache(1, 64)
    with torch.inference_mode():
        out = cast("torch.Tensor", model(tokens, cache=cache))
    assert out.shape[1] == 5
    assert cache.length == 5


def test_buckets() -> None:
    assert [prefill_tokens(n) for n in (1, 16, 17, 512, 513, 4000)] == [16, 16, 32, 512, 1024, 4096]
    assert [batch_rows(n) for n in (1, 2, 3, 5, 8)] == [1, 2, 4, 8, 8]
    assert [capacity(n, 4096) for n in (1, 300, 4000)] == [256, 512, 4096]
    assert capacity(200, 128) == 200
    assert capacity(300, None) == 512


class FakeCache:
    """What a pool needs of a cache."""

    def reset(self) -> None:
        """Forget everything."""


def test_a_pool_hands_out_what_came_back_and_forgets_what_it_does_not_keep() -> None:
    made: list[tuple[int, int]] = []
    forgotten: list[object] = []

    def make(rows: int, tokens: int) -> FakeCache:
        made.append((rows, tokens))
        return FakeCache()

    pool = CachePool(make, 1000, forgotten.append)  # type: ignore[arg-type]
    with pool.lease(2, 10) as first, pool.lease(2, 20) as second, pool.lease(2, 30) as third:
        assert len({id(one) for one in (first, second, third)}) == 3
    assert len(forgotten) == 1
    with pool.lease(2, 40) as again:
        assert any(again is one for one in (first, second, third))
    assert made == [(2, 256)] * 3


def test_what_rows_have_seen_stays_on_the_device_between_bursts() -> None:
    """A mark of token 9, which nobody drew, tells whether a row was written anew."""
    settings = DrawSettings(3, 10, torch.device(DEVICE), counts=True)
    assert settings.seen is not None
    sampling = Sampling(repetition_penalty=1.5)

    def begin(*history: list[int]) -> list[list[int]]:
        settings.begin(Drawing(sampling=sampling, history=history, generated=[0] * len(history)))
        assert settings.seen is not None
        return [[token for token in range(10) if row[token]] for row in settings.seen]

    assert begin([1, 2], [3]) == [[1, 2], [3], []]
    for row, tokens in enumerate(([4, 5], [6])):
        settings.seen[row, tokens] = 1
    settings.seen[:, 9] = 1
    settings.end([[4, 5], [6], []], 2)
    assert begin([1, 2, 4, 5, 7], [3, 6]) == [[1, 2, 4, 5, 7, 9], [3, 6], []], (
        "the second had ended, the third is nobody"
    )
    assert begin([1, 2, 4, 5, 7], [3, 6]) == [[1, 2, 4, 5, 7], [3, 6], []], "steps whose result nobody read"
    settings.end([[], [], []], 0)
    assert begin([1, 2], [3, 6]) == [[1, 2], [3, 6], []], "another request"


def test_penalties_hold_over_several_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmc.runtime.gpu.executor.MAX_STEPS", 3)
    options = {"max_new_tokens": 12, "ignore_eos": True, "repetition_penalty": 1.3}
    expected = reference("llama_tiny", **options)
    assert [row.tokens for row in loaded(monkeypatch, "llama_tiny").generate(PROMPTS, **options)] == expected
