"""The first token of a request is drawn in C as later ones are, and a step that is kept gives what a new one does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import llmc
from llmc.compiler.ops.declaration import Value
from llmc.runtime.model import LanguageModel
from llmc.runtime.native.executor import NativeExecutor
from llmc.runtime.sampling import Drawing, Sampler, Sampling
from llmc.specs.diagnostics import LlmcError

PARAMS: dict[str, Value] = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_layers": 1, "num_heads": 4, "num_kv_heads": 2,
    "max_seq_len": 64,
}  # fmt: skip
SETTINGS: tuple[dict[str, float | int], ...] = (
    {},
    {"temperature": 1.3, "seed": 3},
    {"temperature": 0.9, "top_p": 0.7, "repetition_penalty": 1.4, "seed": 5},
    {"temperature": 1.1, "top_k": 5, "min_p": 0.02, "seed": 8},
)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    for name in ("LLMC_NATIVE", "LLMC_KERNELS"):
        monkeypatch.delenv(name, raising=False)
    made = llmc.load("llama", params=PARAMS, seed=1)
    if not isinstance(made.executor(), NativeExecutor):
        pytest.skip("there is no machine code here")
    return made


def nowhere(_self: NativeExecutor, _logits: Tensor, _drawing: Drawing, _is_open: object) -> None:
    """As an executor that leaves it to torch."""


def test_it_is_the_token_that_torch_draws(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [[3, 1, 4], [1, 5, 9, 2]]
    found = [[out.tokens for out in model.generate(prompts, max_new_tokens=6, **one)] for one in SETTINGS]
    monkeypatch.setattr(NativeExecutor, "choose", nowhere)
    assert found == [[out.tokens for out in model.generate(prompts, max_new_tokens=6, **one)] for one in SETTINGS]


def test_torch_has_no_part_in_it(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(*_: object, **__: object) -> None:
        raise AssertionError("torch has drawn a token")

    monkeypatch.setattr(Sampler, "next", drawn)
    assert len(model.generate([3, 1, 4], max_new_tokens=1, temperature=0.8, ignore_eos=True).tokens) == 1


def test_rows_that_have_ended_get_no_token_and_nan_is_told(model: LanguageModel) -> None:
    executor = model.executor()
    drawing = Drawing(sampling=Sampling(), history=[[1], [2]], generated=[0, 0])
    logits = torch.zeros(2, 61)
    logits[:, 7] = 1
    assert executor.choose(logits, drawing, [True, False]) == [7, -1]
    logits[0, 3] = torch.nan
    assert executor.choose(logits, drawing, [False, True]) == [-1, 7]
    assert executor.choose(logits, drawing, [True, True]) is None
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(LlmcError, match="E0856"):
        model.generate([3, 1, 4], max_new_tokens=1)


def test_a_step_is_used_again_until_its_memory_moves(model: LanguageModel) -> None:
    """Short, again short, then one that needs more memory, other rows, and short once more."""
    requests: list[list[list[int]]] = [[[3, 1]], [[4, 1]], [list(range(40))], [[5, 9], [2, 6, 5]], [[3, 1]]]
    found = [[out.tokens for out in model.generate(one, max_new_tokens=5)] for one in requests]
    alone: list[list[list[int]]] = []
    for one in requests:
        fresh = llmc.load("llama", params=PARAMS, seed=1)
        alone.append([out.tokens for out in fresh.generate(one, max_new_tokens=5)])
    assert found == alone
    assert found[0] == found[-1]
