"""The contract of the cache: its size, its limits, and taking tokens back."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import pytest
import torch

from llmc.compiler.plan import plan
from llmc.kernels.states.kv_window import ROLLBACK_SLACK
from llmc.runtime.cache import Cache
from llmc.runtime.model import LanguageModel
from llmc.specs.diagnostics import LlmcError

from .comparison import tolerance
from .families import VOCAB, each_causal, each_encoder
from .reference import Golden
from .running import named

CAPACITY = 64


def code_of(error: pytest.ExceptionInfo[LlmcError]) -> str:
    (diagnostic,) = error.value.diagnostics
    return diagnostic.code


def feed(model: LanguageModel, cache: Cache, tokens: torch.Tensor) -> torch.Tensor:
    return named(model(tokens, cache=cache))["logits"]


@each_causal
@pytest.mark.parametrize(("batch", "capacity"), [(1, 101), (3, 29), (2, 7)])
def test_bytes_are_those_of_the_plan(golden: Golden, model: LanguageModel, batch: int, capacity: int) -> None:
    program = model.program
    planned = plan(program.model, program.weights.ties, batch=batch, context=capacity, dtype="float32")
    cache = model.new_cache(batch, capacity)
    assert cache.bytes == planned.state_bytes > 0
    assert cache.bytes == sum(t.nbytes for state in cache.states.values() for t in state)
    assert set(cache.states) == {state.path for state in planned.states} == set(program.states)
    feed(model, cache, golden.tokens[:1].expand(batch, -1)[:, :capacity])
    assert cache.bytes == planned.state_bytes


@each_causal
def test_default_size_is_the_context(golden: Golden, model: LanguageModel) -> None:
    cache = model.new_cache()
    assert (cache.batch_size, cache.max_seq_len, cache.length) == (1, 101, 0)
    assert cache.bytes == model.program.plan.state_bytes


@each_causal
def test_a_window_costs_no_more_than_itself(golden: Golden, model: LanguageModel) -> None:
    small, large = model.new_cache(1, 50).bytes, model.new_cache(1, 100).bytes
    kinds = {spec.kind for spec in model.program.states.values()}
    if "kv_window" not in kinds:
        assert golden.family.window is None
        assert large == 2 * small
    elif kinds == {"kv_window"}:
        assert large == small
    else:
        assert small < large < 2 * small


@each_causal
@pytest.mark.parametrize("taken", [1, 5, ROLLBACK_SLACK])
def test_rollback_equals_recomputation(golden: Golden, model: LanguageModel, taken: int) -> None:
    first, other = torch.randint(0, VOCAB, (2, 37)), torch.randint(0, VOCAB, (2, taken + 6))
    cache = model.new_cache(2, CAPACITY)
    feed(model, cache, first)
    cache.rollback(taken)
    assert cache.length == 37 - taken
    continued = torch.cat(
        [feed(model, cache, other[:, :3]), feed(model, cache, other[:, 3:4]), feed(model, cache, other[:, 4:])], dim=1
    )
    expected = golden.ask(torch.cat([first[:, : 37 - taken], other], dim=1))["logits"]
    assert cache.length == 37 + 6
    assert (continued - expected[:, 37 - taken :]).abs().max() < tolerance(expected)


@each_causal
def test_rollback_of_drafts(golden: Golden, model: LanguageModel) -> None:
    """As in speculative decoding: again and again some tokens are tried, and some of them taken back."""
    tokens = torch.randint(0, VOCAB, (1, CAPACITY))
    expected = golden.ask(tokens)["logits"]
    cache = model.new_cache(1, CAPACITY)
    kept = 0
    generator = torch.Generator().manual_seed(1)
    while kept < CAPACITY:
        tried, accepted = (int(torch.randint(1, 6, (), generator=generator)) for _ in range(2))
        accepted = min(accepted, tried, CAPACITY - kept)
        tried = min(tried, CAPACITY - kept)
        draft = tokens[:, kept : kept + tried].clone()
        draft[:, accepted:] = (draft[:, accepted:] + 1) % VOCAB
        logits = feed(model, cache, draft)
        found = logits[:, :accepted]
        assert (found - expected[:, kept : kept + accepted]).abs().max() < tolerance(expected)
        cache.rollback(tried - accepted)
        kept += accepted
    assert cache.length == CAPACITY


@each_causal
def test_rollback_to_nothing_and_limits(golden: Golden, model: LanguageModel) -> None:
    cache = model.new_cache(1, CAPACITY)
    feed(model, cache, golden.tokens[:1, :12])
    for wrong in (13, -1):
        with pytest.raises(LlmcError) as error:
            cache.rollback(wrong)
        assert code_of(error) == "E0802"
    cache.rollback(12)
    assert cache.length == 0
    logits = feed(model, cache, golden.tokens[:1])
    assert (logits - golden.expected["logits"][:1]).abs().max() < tolerance(logits)
    if golden.family.window is None:
        cache.rollback(golden.tokens.shape[1])
        return
    with pytest.raises(LlmcError) as error:
        cache.rollback(ROLLBACK_SLACK + 1)
    assert code_of(error) == "E0802"
    assert cache.length == golden.tokens.shape[1]
    cache.rollback(ROLLBACK_SLACK)
    with pytest.raises(LlmcError) as error:
        cache.rollback(1)
    assert code_of(error) == "E0802"


@each_causal
def test_overflow_is_refused_before_anything_is_computed(golden: Golden, model: LanguageModel) -> None:
    cache = model.new_cache(2, 20)
    feed(model, cache, golden.tokens[:, :18])
    with pytest.raises(LlmcError) as error:
        feed(model, cache, golden.tokens[:, 18:21])
    assert code_of(error) == "E0801"
    assert cache.length == 18
    logits = feed(model, cache, golden.tokens[:, 18:20])
    assert (logits - golden.expected["logits"][:, 18:20]).abs().max() < tolerance(logits)
    with pytest.raises(LlmcError) as error:
        feed(model, cache, golden.tokens[:, 20:21])
    assert code_of(error) == "E0801"


@each_causal
def test_context_is_never_exceeded(golden: Golden, model: LanguageModel) -> None:
    long = torch.zeros(1, 102, dtype=torch.int64)
    attempts = (
        lambda: model(long),
        lambda: model.new_cache(1, 102),
        lambda: model.generate(long[0], max_new_tokens=1),
        lambda: model.generate([1] * 100, max_new_tokens=2),
    )
    for attempt in attempts:
        with pytest.raises(LlmcError) as error:
            attempt()
        assert code_of(error) == "E0801"
    assert len(model.generate([1] * 100, max_new_tokens=1, ignore_eos=True).tokens) == 1
    assert len(model.generate([1] * 98, ignore_eos=True).tokens) == 3


@each_encoder
def test_encoder_context(golden: Golden, model: LanguageModel) -> None:
    with pytest.raises(LlmcError) as error, torch.no_grad():
        model(torch.zeros(1, 42, dtype=torch.int64))
    assert code_of(error) == "E0801"


def test_ids_outside_the_vocabulary(golden: Golden, model: LanguageModel) -> None:
    for wrong in (VOCAB, -1, 2**40):
        tokens = golden.tokens.clone()
        tokens[1, 3] = wrong
        with pytest.raises(LlmcError) as error:
            model(tokens)
        assert code_of(error) == "E0803"
        assert str(wrong) in str(error.value)
    for wrong in (golden.tokens[0], golden.tokens.float(), golden.tokens.int()):
        with pytest.raises(LlmcError) as error:
            model(wrong)
        assert code_of(error) == "E0803"
    with pytest.raises(LlmcError) as error:
        model(golden.tokens, attention_mask=torch.ones(2, 5, dtype=torch.bool))
    assert code_of(error) == "E0803"


@each_causal
def test_ids_of_a_prompt_outside_the_vocabulary(golden: Golden, model: LanguageModel) -> None:
    with pytest.raises(LlmcError) as error:
        model.generate([1, VOCAB, 2], max_new_tokens=1)
    assert code_of(error) == "E0803"


@each_causal
def test_a_cache_for_other_rows(golden: Golden, model: LanguageModel) -> None:
    with pytest.raises(LlmcError) as error:
        feed(model, model.new_cache(3, 50), golden.tokens)
    assert code_of(error) == "E0803"


@each_encoder
def test_an_encoder_cannot_generate(golden: Golden, model: LanguageModel) -> None:
    with pytest.raises(LlmcError) as error:
        model.generate([1, 2, 3], max_new_tokens=1)
    assert code_of(error) == "E0808"
