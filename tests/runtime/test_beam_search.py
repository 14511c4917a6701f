"""Beam search: transformers' texts and scores, whatever keeps the states; and what a search refuses."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import llmc
from llmc.runtime.batch import Generation
from llmc.runtime.beam_settings import BeamSettings
from llmc.runtime.cache import Cache, runs
from llmc.runtime.model import LanguageModel
from llmc.specs.diagnostics import LlmcError

PROMPTS = [[5, 3, 9, 1, 7], [2, 8], [11, 4, 6]]
EOS = 7
Texts = list[tuple[list[int], float]]
"""The texts of a prompt with their scores, the best first."""


def texts_of(found: Sequence[Generation]) -> list[Texts]:
    return [[(one.tokens, one.score or 0.0) for one in (best, *best.others)] for best in found]


def require_equal(found: list[Texts], expected: list[Texts]) -> None:
    assert [[text for text, _ in texts] for texts in found] == [[text for text, _ in texts] for texts in expected]
    scores, wanted = (torch.tensor([score for texts in all for _, score in texts]) for all in (found, expected))
    torch.testing.assert_close(scores, wanted, rtol=1e-5, atol=1e-5)


# --- the reference --------------------------------------------------------------------------------------------------


def randomised(reference: Any, folder: Path) -> Any:
    """Weights that make tokens vary, saved."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(
                torch.randn_like(parameter) * (0.9 if parameter.dim() > 1 else 0.1) + (parameter.dim() == 1)
            )
    reference.save_pretrained(folder)
    return reference.eval()


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, LanguageModel]:
    folder = tmp_path_factory.mktemp("llama")
    config = transformers.LlamaConfig(
        vocab_size=37, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=None, eos_token_id=EOS, pad_token_id=0,
    )  # fmt: skip
    return randomised(transformers.LlamaForCausalLM(config), folder), llmc.load(folder)


@pytest.fixture(scope="module")
def seq2seq(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, LanguageModel]:
    folder = tmp_path_factory.mktemp("t5")
    config = transformers.T5Config(
        vocab_size=37, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, eos_token_id=EOS, pad_token_id=0,
        architectures=["T5ForConditionalGeneration"],
    )  # fmt: skip
    config.decoder_start_token_id = 0
    return randomised(transformers.T5ForConditionalGeneration(config), folder), llmc.load(folder)


def asked(reference: Any, prompts: Sequence[list[int]], options: Mapping[str, object]) -> list[Texts]:
    """transformers' answer to a padded batch."""
    longest = max(map(len, prompts))
    left = not reference.config.is_encoder_decoder
    padded = [[[0] * (longest - len(prompt)), prompt] for prompt in prompts]
    ids = torch.tensor([[*pad, *prompt] if left else [*prompt, *pad] for pad, prompt in padded])
    mask = torch.tensor([[len(prompt)] for prompt in prompts]) > torch.arange(longest)
    out = reference.generate(
        ids, attention_mask=mask.flip(1) if left else mask, do_sample=False, return_dict_in_generate=True,
        output_scores=True, **options,
    )  # fmt: skip
    texts = out.sequences[:, longest if left else 1 :].tolist()
    ends = [text.index(EOS) + 1 if EOS in text else len(text) for text in texts]
    rows = list(
        zip([text[:end] for text, end in zip(texts, ends, strict=True)], out.sequences_scores.tolist(), strict=True)
    )
    count = len(rows) // len(prompts)
    return [rows[i * count : (i + 1) * count] for i in range(len(prompts))]


SEARCHES: Mapping[str, Mapping[str, object]] = {
    "plain": {},
    "short": {"length_penalty": -1.0},
    "sum": {"length_penalty": 0.0, "num_beams": 3},
    "long": {"length_penalty": 2.0, "num_beams": 2},
    "early": {"early_stopping": True, "num_beams": 2},
    "never": {"early_stopping": "never", "length_penalty": 0.6, "num_beams": 3},
    "never, short": {"early_stopping": "never", "length_penalty": -0.5},
    "one token": {"max_new_tokens": 1},
    "late": {"min_new_tokens": 6, "early_stopping": True},
}


@pytest.mark.parametrize("name", SEARCHES)
def test_texts_and_scores_are_those_of_transformers(decoder: tuple[Any, LanguageModel], name: str) -> None:
    reference, model = decoder
    options = {"num_beams": 4, "max_new_tokens": 14, **SEARCHES[name]}
    options["num_return_sequences"] = options["num_beams"]
    expected = asked(reference, PROMPTS, options)
    require_equal(texts_of(model.generate(PROMPTS, **options)), expected)
    if name in ("plain", "early"):
        lengths = [len(text) for texts in expected for text, _ in texts]
        assert min(lengths) < 14, "no text ends by itself"
    if name == "late":
        assert all(EOS not in text[:6] for texts in expected for text, _ in texts)


def test_penalised_texts_are_those_of_transformers(decoder: tuple[Any, LanguageModel]) -> None:
    reference, model = decoder
    options = {"num_beams": 4, "max_new_tokens": 14, "repetition_penalty": 1.4, "num_return_sequences": 2}
    for prompt in PROMPTS[:2]:  # padding would be penalised too
        expected = asked(reference, [prompt], options)
        require_equal(texts_of([model.generate(prompt, **options)]), expected)
        assert expected != asked(reference, [prompt], {**options, "repetition_penalty": 1.0})


@pytest.mark.parametrize("switch", ["", "LLMC_NATIVE", "LLMC_PASSES"])
def test_an_encoder_is_read_once(
    seq2seq: tuple[Any, LanguageModel], monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    """As machine code, through torch, and without the pass that keeps cross keys."""
    reference, model = seq2seq
    if switch:
        monkeypatch.setenv(switch, "0")
        model = llmc.load(str(model.source))
    options = {"num_beams": 4, "max_new_tokens": 12, "num_return_sequences": 4}
    require_equal(texts_of(model.generate(PROMPTS, **options)), asked(reference, PROMPTS, options))


# --- states ---------------------------------------------------------------------------------------------------------

SMALL = {"num_layers": 2, "hidden_size": 32, "vocab_size": 40}
SPECS: Mapping[str, Mapping[str, Any]] = {
    "mistral": {**SMALL, "intermediate_size": 32, "num_heads": 4, "num_kv_heads": 2, "sliding_window": 4},
    "mamba": SMALL,
    "rwkv7": {**SMALL, "num_layers": 1, "hidden_size": 64},
    "deepseek_v2_lite": {
        **SMALL, "num_heads": 2, "intermediate_size": 32, "kv_lora_rank": 8, "nope_head_dim": 8, "rope_head_dim": 4,
        "v_head_dim": 8, "num_experts": 4, "num_experts_per_token": 2, "expert_width": 16,
    },
}  # fmt: skip
"""A ring, constant states, a token shift, latents."""


def lively(spec: str, params: Mapping[str, Any], **options: Any) -> LanguageModel:
    """A model whose tokens vary."""
    model = llmc.load(spec, params=dict(params), seed=3, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return model


def worst_score(model: LanguageModel, prompts: Sequence[list[int]]) -> float:
    """How far scores lie from the sums of what the whole texts give, relative to these. Several tens of tokens, of
    which beams share all but the last few."""
    options = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 26, "length_penalty": 0.0}
    worst = 0.0
    for prompt, texts in zip(prompts, texts_of(model.generate(prompts, ignore_eos=True, **options)), strict=True):
        assert len({tuple(text) for text, _ in texts}) == 4
        for text, score in texts:
            with torch.no_grad():
                logits = model(torch.tensor([prompt + text[:-1]]))
            assert isinstance(logits, torch.Tensor)
            found = logits[0, len(prompt) - 1 :].float().log_softmax(-1).gather(1, torch.tensor(text)[:, None]).sum()
            worst = max(worst, float(abs(found - score) / abs(found).clamp(min=1)))
    return worst


@pytest.mark.parametrize(
    ("spec", "is_native"), [*((spec, False) for spec in SPECS), ("mistral", True), ("mamba", True)]
)
def test_rows_go_on_from_the_rows_they_follow(spec: str, is_native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMC_NATIVE", str(int(is_native)))
    assert worst_score(lively(spec, SPECS[spec]), PROMPTS) < 1e-5


@pytest.mark.parametrize("spec", ["mistral", "mamba"])
def test_rows_that_do_not_are_noticed(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMC_NATIVE", "0")
    monkeypatch.setattr(Cache, "reorder", lambda *_: None)  # pyright: ignore[reportUnknownLambdaType]
    assert worst_score(lively(spec, SPECS[spec]), PROMPTS) > 1e-3


def test_keys_in_float8_keep_their_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search whose beams are those of texts that were read one by one, but for keys next to a rounding of float8."""
    monkeypatch.setenv("LLMC_NATIVE", "0")
    model = lively("llama_tiny", {"vocab_size": 40})
    model.keep_keys_as(torch.float8_e4m3fn)
    found = model.generate(PROMPTS[0], num_beams=3, max_new_tokens=12, ignore_eos=True, length_penalty=0.0)
    with model.lease_cache(1, 40) as cache, torch.inference_mode():
        total = 0.0
        for given, token in zip([PROMPTS[0], *([t] for t in found.tokens)], found.tokens, strict=False):
            logits = model(torch.tensor([given]), cache=cache)
            assert isinstance(logits, torch.Tensor)
            total += float(logits[0, -1].log_softmax(-1)[token])
    assert found.score == pytest.approx(total, rel=1e-3)


def test_runs_of_a_ring() -> None:
    assert list(runs(3, 6, 10)) == [slice(3, 6)]
    assert list(runs(8, 13, 10)) == [slice(8, 10), slice(0, 3)]
    assert list(runs(2, 25, 10)) == [slice(5, 10), slice(0, 5)]
    assert list(runs(6, 6, 10)) == []


# --- the surface ----------------------------------------------------------------------------------------------------


def test_a_prompt_alone_and_in_a_batch(decoder: tuple[Any, LanguageModel]) -> None:
    model = decoder[1]
    together = model.generate(PROMPTS, num_beams=3, max_new_tokens=10)
    alone = [model.generate(prompt, num_beams=3, max_new_tokens=10) for prompt in PROMPTS]
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    assert [one.prompt_tokens for one in together] == [5, 2, 3]
    assert all(one.finish_reason == ("eos" if one.tokens[-1] == EOS else "length") for one in together)
    assert not together[0].others


def test_a_kept_model_searches_too(decoder: tuple[Any, LanguageModel]) -> None:
    """The second load of a folder is a recalled one."""
    model = decoder[1]
    again = llmc.load(str(model.source))
    options = {"num_beams": 3, "max_new_tokens": 10, "num_return_sequences": 3}
    assert texts_of([again.generate(PROMPTS[0], **options)]) == texts_of([model.generate(PROMPTS[0], **options)])


def test_greedy_texts_have_a_least_length_too(decoder: tuple[Any, LanguageModel]) -> None:
    reference, model = decoder
    free = model.generate(PROMPTS, max_new_tokens=12)
    assert min(len(one.tokens) for one in free) < 8
    found = model.generate(PROMPTS, max_new_tokens=12, min_new_tokens=8)
    for prompt, one in zip(PROMPTS, found, strict=True):
        out = reference.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=12, min_new_tokens=8)
        assert one.tokens == out[0, len(prompt) :].tolist()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"num_beams": 0}, "E0862"),
        ({"num_beams": 65}, "E0862"),
        ({"num_beams": 2.0}, "E0862"),
        ({"num_beams": 2, "num_return_sequences": 3}, "E0862"),
        ({"num_return_sequences": 2}, "E0862"),
        ({"num_beams": 2, "num_return_sequences": 0}, "E0862"),
        ({"num_beams": 2, "length_penalty": float("nan")}, "E0862"),
        ({"num_beams": 2, "length_penalty": 1e4}, "E0862"),
        ({"num_beams": 2, "early_stopping": "soon"}, "E0862"),
        ({"num_beams": 40}, "E0862"),
        ({"num_beams": 2, "stream": True}, "E0807"),
        ({"num_beams": 2, "temperature": 0.7}, "E0807"),
        ({"num_beams": 2, "top_k": 3}, "E0807"),
        ({"num_beams": 2, "logprobs": 0}, "E0807"),
        ({"num_beams": 2, "stop": "x"}, "E0807"),
        ({"num_beams": 2, "min_new_tokens": 9, "max_new_tokens": 8}, "E0857"),
        ({"min_new_tokens": -1}, "E0857"),
    ],
)
def test_nonsense_is_refused(decoder: tuple[Any, LanguageModel], options: dict[str, object], code: str) -> None:
    with pytest.raises(LlmcError) as caught:
        decoder[1].generate(PROMPTS[0], **options)
    assert [one.code for one in caught.value.diagnostics] == [code]


def test_logits_that_are_not_finite_end_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively("llama_tiny", {"vocab_size": 40})
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if name == "model.norm.weight").fill_(float("nan"))
    with pytest.raises(LlmcError) as caught:
        model.generate(PROMPTS, num_beams=2, max_new_tokens=4)
    assert caught.value.diagnostics[0].code == "E0856"


@pytest.mark.parametrize("is_native", [True, False], ids=["machine code", "torch"])
def test_equal_scores_give_the_lower_id(monkeypatch: pytest.MonkeyPatch, is_native: bool) -> None:
    """Each odd token is scored, and embedded, as the even one before it is: whole texts tie."""
    monkeypatch.setenv("LLMC_NATIVE", str(int(is_native)))
    model = lively("llama_tiny", {"vocab_size": 40})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in ("lm_head.weight", "model.embed_tokens.weight"):
                parameter[1::2] = parameter[::2]
    found = model.generate(PROMPTS[0], num_beams=4, num_return_sequences=4, max_new_tokens=6, ignore_eos=True)
    (first, score), (second, other), *_ = texts_of([found])[0]
    assert score == other
    assert all(token % 2 == 0 for token in first)
    assert second == [*first[:-1], first[-1] + 1]


def test_rules_of_early_stopping() -> None:
    assert BeamSettings(num_beams=2, length_penalty=2.0).rule(3, 8) == (9, 9, 0, 0)
    assert BeamSettings(num_beams=2, length_penalty=2.0, early_stopping="never").rule(3, 8) == (9, 64, 0, 0)
    assert BeamSettings(num_beams=2, length_penalty=-1.0, early_stopping="never").rule(4, 8) == (0.25, 0.25, 0, 0)
    assert BeamSettings(num_beams=2, early_stopping=True).rule(8, 8) == (8, 8, 1, 1)
