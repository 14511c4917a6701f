"""Threads of Python that run models at once, processes that fork, and the variables that say what runs them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

import llmc
from llmc.compiler.program import kernels_are_on, native_is_on, passes_are_on
from llmc.runtime.model import LanguageModel
from llmc.runtime.native.executor import NativeExecutor
from llmc.runtime.native.team import thread_count
from llmc.specs.diagnostics import LlmcError

PARAMS = {"num_layers": 2, "hidden_size": 256, "num_heads": 4, "intermediate_size": 512, "vocab_size": 257}
PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7, 9], [3, 2]]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    model = llmc.load("llama", params=PARAMS)
    if not isinstance(model.executor(), NativeExecutor):
        pytest.skip("there is no machine code here")
    return model


def tokens(model: LanguageModel, prompt: list[int]) -> list[int]:
    return model.generate(prompt, max_new_tokens=40, ignore_eos=True).tokens


def test_threads_of_python_may_share_a_model(model: LanguageModel) -> None:
    alone = [tokens(model, prompt) for prompt in PROMPTS]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(partial(tokens, model), PROMPTS * 4))
    assert together == alone * 4


def _in_child(given: LanguageModel, prompt: list[int], queue: multiprocessing.SimpleQueue[list[int]]) -> None:
    queue.put(tokens(given, prompt))


def test_a_child_after_a_fork_has_threads_of_its_own(model: LanguageModel) -> None:
    alone = tokens(model, PROMPTS[0])
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.SimpleQueue[list[int]] = context.SimpleQueue()
    child = context.Process(target=_in_child, args=(model, PROMPTS[0], queue))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert queue.get() == alone


@pytest.mark.parametrize(("name", "value", "count"), [("LLMC_NUM_THREADS", "3", 3), ("OMP_NUM_THREADS", "5", 5)])
def test_the_environment_sets_the_threads(name: str, value: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMC_NUM_THREADS", raising=False)
    monkeypatch.setenv(name, value)
    assert thread_count() == count


@pytest.mark.parametrize("name", ["LLMC_NUM_THREADS", "OMP_NUM_THREADS"])
def test_nothing_in_the_environment_is_no_count(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv(name, "")
    assert thread_count() >= 1


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_nonsense_in_the_environment_is_said(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMC_NUM_THREADS", value)
    with pytest.raises(LlmcError, match="E0905"):
        thread_count()


@pytest.mark.parametrize(
    ("name", "is_on"),
    [("LLMC_PASSES", passes_are_on), ("LLMC_KERNELS", kernels_are_on), ("LLMC_NATIVE", native_is_on)],
)
def test_a_switch_is_on_or_off(name: str, is_on: Callable[[], bool], monkeypatch: pytest.MonkeyPatch) -> None:
    for other in ("LLMC_PASSES", "LLMC_KERNELS", "LLMC_NATIVE"):
        monkeypatch.delenv(other, raising=False)
    for value, expected in (("", True), ("1", True), ("0", False)):
        monkeypatch.setenv(name, value)
        assert is_on() is expected
    monkeypatch.setenv(name, "off")
    with pytest.raises(LlmcError, match="E0905"):
        is_on()
