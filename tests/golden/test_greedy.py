"""64 greedy tokens are transformers' own, from prompts where the text has at least 20 distinct tokens.

The reference sees prompt and text at once: where each token is its choice after the ones before, the text is what it
writes too. Its whole prefill is asked because its resumed decode may itself be wrong.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from llmc.compiler.program import native_is_on
from llmc.runtime.model import LanguageModel
from llmc.runtime.native.executor import NativeExecutor

from .comparison import tolerance
from .families import VOCAB, each_causal
from .reference import Golden

PROMPT, NEW, DISTINCT, WANTED, TRIED = 9, 64, 20, 2, 48


def written(model: LanguageModel, prompts: Sequence[list[int]]) -> list[list[int]]:
    """The greedy text after each prompt, all in one batch."""
    found = model.generate(prompts, max_new_tokens=NEW, ignore_eos=True)
    return [generation.tokens for generation in found]


def varied(texts: Sequence[list[int]]) -> list[int]:
    """The first rows whose text has many tokens."""
    rows = [row for row, text in enumerate(texts) if len(set(text)) >= DISTINCT][:WANTED]
    assert len(rows) == WANTED, f"only {len(rows)} of {len(texts)} prompts give {DISTINCT} distinct tokens"
    return rows


def require_greedy(text: list[int], logits: Tensor) -> None:
    """Each token is the likeliest by the reference's logits `[NEW, V]` where it stands, or hardly less likely."""
    assert len(text) == NEW
    lost = logits.max(dim=-1).values - logits.gather(-1, torch.tensor(text)[:, None])[:, 0]
    for step, gap in enumerate(lost.tolist()):
        best = int(logits[step].argmax())
        assert gap <= 10 * tolerance(logits), f"token {step} is {text[step]}, not {best}, by a gap of {gap:.2e}"


@each_causal
def test_greedy_tokens(golden: Golden, model: LanguageModel) -> None:
    """Alone, in a batch of equals, and beside a shorter and a longer prompt."""
    prompts = torch.randint(0, VOCAB, (TRIED, PROMPT), generator=torch.Generator().manual_seed(5)).tolist()
    texts = written(model, prompts)
    first, second = varied(texts)
    unequal = written(model, [[3], prompts[first], [5] * 30, prompts[second]])
    together = torch.tensor([prompts[row] + texts[row] for row in (first, second)])
    logits = golden.ask(together[:, :-1])["logits"][:, PROMPT - 1 :]
    for index, row in enumerate((first, second)):
        alone = model.generate(prompts[row], max_new_tokens=NEW, ignore_eos=True)
        assert alone.finish_reason == "length"
        assert alone.prompt_tokens == PROMPT
        require_greedy(texts[row], logits[index])
        for text in (alone.tokens, unequal[2 * index + 1]):
            if text != texts[row]:
                whole = torch.tensor([prompts[row] + text])
                require_greedy(text, golden.ask(whole[:, :-1])["logits"][0, PROMPT - 1 :])


@each_causal
def test_stops_at_an_end_token(golden: Golden, model: LanguageModel) -> None:
    tokens = model.generate([3, 1, 4], max_new_tokens=NEW, ignore_eos=True).tokens
    end = tokens[11]
    stopped = model.generate([3, 1, 4], max_new_tokens=NEW, stop_ids=[end], ignore_eos=True)
    assert stopped.tokens == tokens[: tokens.index(end) + 1]
    assert stopped.finish_reason == "stop"


@each_causal
def test_it_is_machine_code(model: LanguageModel) -> None:
    if not native_is_on():
        pytest.skip("machine code is switched off")
    assert isinstance(model.executor(), NativeExecutor)


def test_require_greedy_sees_a_wrong_token() -> None:
    logits = torch.randn(NEW, VOCAB)
    right = logits.argmax(dim=-1).tolist()
    require_greedy(right, logits)
    for wrong in (0, 7, NEW - 1):
        with pytest.raises(AssertionError, match=f"token {wrong} is"):
            require_greedy([(t + 1) % VOCAB if i == wrong else t for i, t in enumerate(right)], logits)
