"""Generation: prompts of every form, sampling, stops, streams, logprobs, limits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

import llmc
from llmc.runtime.batch import Generation
from llmc.runtime.model import LanguageModel

TEXT = "the quick brown fox jumps over the lazy dog and the cat sat on the mat while it rained all day long"
PARAMS = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 280,
    "max_seq_len": 96,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with a byte-level tokenizer, and weights large enough that tokens vary."""
    path = tmp_path_factory.mktemp("model")
    model = llmc.load("llama", params=PARAMS, seed=11)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(12.0)
    model.save(path)
    tokenizer = RustTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet))
    tokenizer.save(str(path / "tokenizer.json"))
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return llmc.load(folder)


def test_text_tokens_and_tensor_prompts_agree(model: LanguageModel) -> None:
    assert model.tokenizer is not None
    ids = model.tokenizer.encode("the fox")
    by_text = model.generate("the fox", max_new_tokens=12)
    assert by_text.prompt_tokens == len(ids)
    assert model.generate(ids, max_new_tokens=12).tokens == by_text.tokens
    assert model.generate(torch.tensor(ids), max_new_tokens=12).tokens == by_text.tokens
    assert by_text.text == model.tokenizer.decode(by_text.tokens)
    assert by_text.finish_reason == "length"
    assert len(by_text.tokens) == 12


def test_greedy_is_the_argmax_of_the_whole_sequence(model: LanguageModel) -> None:
    tokens = [5, 9, 40]
    out = model.generate(tokens, max_new_tokens=16)
    with torch.no_grad():
        logits = model(torch.tensor([tokens + out.tokens]))
    assert isinstance(logits, torch.Tensor)
    assert logits[0, 2:-1].argmax(dim=-1).tolist() == out.tokens  # pyright: ignore[reportUnknownMemberType]
    assert len(set(out.tokens)) > 3


def test_a_list_of_prompts_gives_a_list_and_rows_do_not_mix(model: LanguageModel) -> None:
    prompts = ["the", "a quick brown fox", "mat while it"]
    together = model.generate(prompts, max_new_tokens=10, temperature=0.9, seed=3)
    assert [g.prompt_tokens for g in together] == [len(model.tokenizer.encode(p)) for p in prompts]  # pyright: ignore[reportOptionalMemberAccess]
    greedy = model.generate(prompts, max_new_tokens=10)
    assert [g.tokens for g in greedy] == [model.generate(p, max_new_tokens=10).tokens for p in prompts]
    assert together[0].tokens == model.generate("the", max_new_tokens=10, temperature=0.9, seed=3).tokens


def test_a_finished_row_leaves_the_others_alone(model: LanguageModel) -> None:
    alone = [model.generate(p, max_new_tokens=12) for p in ([3, 4], [7, 8, 9])]
    stop = alone[0].tokens[4]
    if stop in alone[1].tokens:
        pytest.skip("both rows hold the stop token")
    first, second = model.generate([[3, 4], [7, 8, 9]], max_new_tokens=12, stop_ids=[stop])
    assert first.finish_reason == "stop"
    assert first.tokens == alone[0].tokens[: alone[0].tokens.index(stop) + 1]
    assert second.tokens == alone[1].tokens


def test_seeds(model: LanguageModel) -> None:
    def draw(seed: int) -> list[int]:
        return model.generate([1, 2, 3], max_new_tokens=12, temperature=1.0, seed=seed).tokens

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}], ids=["top_k", "top_p", "min_p"])
def test_filters_that_leave_one_token_are_greedy(model: LanguageModel, options: dict[str, float]) -> None:
    greedy = model.generate([1, 2, 3], max_new_tokens=8)
    assert model.generate([1, 2, 3], max_new_tokens=8, temperature=5.0, **options).tokens == greedy.tokens


def test_repetition_penalty_counts_the_prompt(model: LanguageModel) -> None:
    greedy = model.generate([1, 2, 3], max_new_tokens=1).tokens[0]
    again = model.generate([1, 2, greedy, 3], max_new_tokens=1, repetition_penalty=1e6).tokens[0]
    assert again != greedy


def test_streams_add_up_to_the_text(model: LanguageModel) -> None:
    whole = model.generate("the cat", max_new_tokens=20, temperature=0.8, seed=5)
    pieces = list(model.generate("the cat", max_new_tokens=20, temperature=0.8, seed=5, stream=True))
    assert "".join(pieces) == whole.text
    assert len(pieces) > 1


def test_stop_strings_are_never_shown(model: LanguageModel) -> None:
    whole = model.generate("the cat", max_new_tokens=20).text
    assert whole is not None
    stop = whole[5:8]
    stopped = model.generate("the cat", max_new_tokens=20, stop=stop)
    assert stopped.finish_reason == "stop"
    assert stopped.text == whole[: whole.index(stop)]
    assert "".join(model.generate("the cat", max_new_tokens=20, stop=[stop], stream=True)) == stopped.text


def test_logprobs(model: LanguageModel) -> None:
    out = model.generate([4, 5, 6], max_new_tokens=5, logprobs=3)
    assert out.logprobs is not None
    with torch.no_grad():
        logits = model(torch.tensor([[4, 5, 6, *out.tokens]]))
    assert isinstance(logits, torch.Tensor)
    expected = logits[0, 2:-1].log_softmax(dim=-1)
    for step, (own, *likeliest) in enumerate(out.logprobs):
        assert own[0] == out.tokens[step]
        assert own[1] == pytest.approx(float(expected[step, own[0]]), abs=1e-4)
        assert [token for token, _ in likeliest] == expected[step].topk(3).indices.tolist()  # pyright: ignore[reportUnknownMemberType]


def code_of(call: object, *args: object, **kwargs: object) -> str:
    with pytest.raises(llmc.LlmcError) as caught:
        call(*args, **kwargs)  # type: ignore[operator]  # pyright: ignore[reportCallIssue]
    return caught.value.diagnostics[0].code


def test_the_context_is_never_silently_cut(model: LanguageModel) -> None:
    assert code_of(model.generate, [1] * 90, max_new_tokens=7) == "E0801"
    assert code_of(model.generate, [1] * 96) == "E0801"
    assert code_of(model, torch.ones(1, 97, dtype=torch.int64)) == "E0801"
    assert len(model.generate([1] * 90, ignore_eos=True).tokens) == 6, "the default length is cut to what fits"
    cache = model.new_cache(1, 8)
    model(torch.ones(1, 6, dtype=torch.int64), cache=cache)
    assert code_of(model, torch.ones(1, 3, dtype=torch.int64), cache=cache) == "E0801"
    assert cache.length == 6, "a refused call changes nothing"


@pytest.mark.parametrize("prompt", ["", [], [280], [-1], 3.5, [[1], []], torch.zeros(2, 2)])
def test_bad_prompts(model: LanguageModel, prompt: object) -> None:
    assert code_of(model.generate, prompt, max_new_tokens=2) in ("E0803", "E0805")


def test_bad_options(model: LanguageModel) -> None:
    assert code_of(model.generate, [1], max_tokens=3) == "E0807"
    assert code_of(model.generate, [1], temperature=-1.0) == "E0855"
    assert code_of(model.generate, [1], max_new_tokens=0) in ("E0801", "E0857")
    assert code_of(model.generate, [[1], [2]], stream=True) == "E0807"


def test_a_model_without_tokenizer_takes_ids_only() -> None:
    model = llmc.load("llama", params=PARAMS, seed=1)
    assert code_of(model.generate, "text") == "E0806"
    assert code_of(model.generate, [1, 2], stop="x") == "E0806"
    out = model.generate([1, 2], max_new_tokens=3)
    assert isinstance(out, Generation)
    assert out.text is None
    assert len(out.tokens) == 3


def test_an_encoder_cannot_generate() -> None:
    model = llmc.load("bert_tiny", params={"num_layers": 1}, seed=1)
    assert code_of(model.generate, [1, 2], max_new_tokens=3) == "E0808"


def test_nan_logits_stop_the_request(folder: Path) -> None:
    model = llmc.load(folder)
    with torch.no_grad():
        model.get_parameter("model.norm.weight")[0] = float("nan")
    assert code_of(model.generate, [1, 2], max_new_tokens=3) == "E0856"


def test_end_tokens_of_the_folder_end_a_text(folder: Path, tmp_path: Path) -> None:
    import json
    import shutil

    shutil.copytree(folder, tmp_path / "m")
    free = llmc.load(tmp_path / "m").generate([3, 4], max_new_tokens=12)
    end = free.tokens[5]
    (tmp_path / "m" / "generation_config.json").write_text(json.dumps({"eos_token_id": [end]}))
    ended = llmc.load(tmp_path / "m").generate([3, 4], max_new_tokens=12)
    assert ended.finish_reason == "eos"
    assert ended.tokens == free.tokens[: free.tokens.index(end) + 1]
