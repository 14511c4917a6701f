"""64 greedy tokens equal transformers' own, from prompts where the text has at least 20 distinct tokens."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import pytest
import torch
from torch import Tensor

from llmc.runtime.model import LanguageModel

from .comparison import tolerance
from .families import VOCAB, each_causal
from .reference import Golden

PROMPT, NEW, DISTINCT, WANTED, TRIED = 9, 64, 20, 2, 48


_FOUND: dict[str, tuple[Tensor, Tensor, Tensor]] = {}


def varied_prompts(golden: Golden) -> tuple[Tensor, Tensor, Tensor]:
    """`find_varied_prompts`, once a family."""
    name = golden.family.name
    if name not in _FOUND:
        _FOUND[name] = find_varied_prompts(golden)
    return _FOUND[name]


def find_varied_prompts(golden: Golden) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts `[P, PROMPT]` whose continuation `[P, NEW]` varies, and the reference's logits there `[P, NEW, V]`."""
    generator = torch.Generator().manual_seed(5)
    prompts = torch.randint(0, VOCAB, (TRIED, PROMPT), generator=generator)
    with torch.no_grad():
        answer = golden.reference.generate(  # type: ignore[operator]
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    new = answer.sequences[:, PROMPT:]
    varied = [row for row in range(TRIED) if len(new[row].unique()) >= DISTINCT][:WANTED]
    assert len(varied) == WANTED, f"only {len(varied)} of {TRIED} prompts give {DISTINCT} distinct tokens"
    return prompts[varied], new[varied], torch.stack(answer.logits, dim=1)[varied]


def require_same_tokens(ours: list[int], expected: Tensor, logits: Tensor) -> None:
    """Up to the first place where the reference itself hardly prefers its token."""
    assert len(ours) == NEW
    for step, (token, wanted) in enumerate(zip(ours, expected.tolist(), strict=True)):
        if token != wanted:
            best = logits[step].topk(2).values
            gap = float(best[0] - best[1])
            assert gap <= 10 * tolerance(logits), f"token {step} is {token}, not {wanted}, by a gap of {gap:.2e}"
            return


@each_causal
def test_greedy_tokens(golden: Golden, model: LanguageModel) -> None:
    prompts, expected, logits = varied_prompts(golden)
    together = model.generate([row.tolist() for row in prompts], max_new_tokens=NEW, ignore_eos=True)
    for index, row in enumerate(prompts):
        alone = model.generate(row.tolist(), max_new_tokens=NEW, ignore_eos=True)
        require_same_tokens(alone.tokens, expected[index], logits[index])
        require_same_tokens(together[index].tokens, expected[index], logits[index])
        assert alone.finish_reason == "length"
        assert alone.prompt_tokens == PROMPT


@each_causal
def test_unequal_prompts_in_one_batch(golden: Golden, model: LanguageModel) -> None:
    prompts, expected, logits = varied_prompts(golden)
    batch = [[3], prompts[0].tolist(), [5] * 30, prompts[1].tolist()]
    found = model.generate(batch, max_new_tokens=NEW, ignore_eos=True)
    require_same_tokens(found[1].tokens, expected[0], logits[0])
    require_same_tokens(found[3].tokens, expected[1], logits[1])


@each_causal
def test_stops_at_an_end_token(golden: Golden, model: LanguageModel) -> None:
    tokens = model.generate([3, 1, 4], max_new_tokens=NEW, ignore_eos=True).tokens
    end = tokens[11]
    stopped = model.generate([3, 1, 4], max_new_tokens=NEW, stop_ids=[end], ignore_eos=True)
    assert stopped.tokens == tokens[: tokens.index(end) + 1]
    assert stopped.finish_reason == "stop"


def test_require_same_tokens_sees_a_wrong_token() -> None:
    logits = torch.randn(NEW, VOCAB)
    right = logits.argmax(dim=-1)
    require_same_tokens(right.tolist(), right, logits)
    with pytest.raises(AssertionError, match="token 7"):
        require_same_tokens([(t + 1) % VOCAB if i == 7 else t for i, t in enumerate(right.tolist())], right, logits)
