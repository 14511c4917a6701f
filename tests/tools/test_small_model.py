"""The small model that ships: it is small, it predicts better than xz, it does not loop, and its script can train."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportPrivateUsage=false
from __future__ import annotations

import csv
import json
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as RustTokenizer

import llmc
from llmc.runtime.batch import Generation
from llmc.runtime.model import LanguageModel
from llmc.tools import king_james
from llmc.tools.bits_per_byte import bits_per_byte, encode_documents, text_bytes, token_bits, xz_bits_per_byte
from llmc.tools.king_james import Corpus, TextError, read_corpus
from llmc.tools.pretrain import Pretraining, Recipe, cut_windows
from llmc.tools.train_small import train_tokenizer

FOLDER = Path(str(files("llmc.specs"))) / "models" / "small"
PROMPTS = ("In the beginning", "And it came to pass", "The LORD is my shepherd", "Blessed are")
VERSES = """Ge1:1 In the beginning.
Ge1:2 And the  earth.
Ge2:1 Thus the heavens.
Acts1:1 The former treatise.
Rom1:1 Paul, a servant.
1Cor1:1 Paul, called.
"""


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return llmc.load(FOLDER)


@pytest.fixture(scope="module")
def results() -> dict[str, float]:
    return json.loads((FOLDER / "results.json").read_text())


def test_the_folder_is_small() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 4_000_000


def test_the_spec_and_the_folder_are_one_model(model: LanguageModel) -> None:
    named = llmc.load("small", weights=FOLDER)
    ours = {name: value for name, value in named.program.spec.environment.items()}
    assert ours == dict(model.program.spec.environment)
    for (path, ours), (other, theirs) in zip(named.named_parameters(), model.named_parameters(), strict=True):
        assert path == other
        assert torch.equal(ours, theirs), path


def test_the_recorded_bits_per_byte_beat_xz(results: dict[str, float]) -> None:
    assert results["held_out_bytes"] > 150_000
    assert results["held_out_bits_per_byte"] < results["xz_bits_per_byte"]
    assert results["training_cpu_minutes"] <= 45


def test_the_excerpt_takes_fewer_bits_than_xz_takes_for_the_whole(
    model: LanguageModel, results: dict[str, float]
) -> None:
    text = (FOLDER / "heldout.txt").read_bytes()
    documents = text.decode().splitlines()
    assert text_bytes(documents) == text
    assert model.tokenizer is not None
    measured = bits_per_byte(model, model.tokenizer, documents, context=512, stride=256)
    assert measured < results["xz_bits_per_byte"] < xz_bits_per_byte(text)
    assert measured == pytest.approx(results["held_out_bits_per_byte"], rel=0.15)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text_is_no_loop(model: LanguageModel, prompt: str) -> None:
    generation = model.generate(prompt, max_new_tokens=100)
    assert isinstance(generation, Generation)
    assert model.folder_repetition_penalty == 1.15, "the shipped default, which generation_config.json states"
    assert len(generation.tokens) == 100 or generation.finish_reason == "eos"
    grams = Counter(tuple(generation.tokens[i : i + 8]) for i in range(len(generation.tokens) - 7))
    assert max(grams.values()) < 3, generation.text
    assert generation.total_seconds < 10


def test_the_loss_curve_falls() -> None:
    with (FOLDER / "loss_curve.csv").open() as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert len(rows) >= 10
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert rows[-1]["held_out_bits_per_byte"] < rows[0]["held_out_bits_per_byte"]
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)


def test_the_readme_states_where_the_text_is_from() -> None:
    readme = (FOLDER / "README.md").read_text()
    assert "bible-kjv-text" in readme
    assert "public domain" in readme


# --- the script --------------------------------------------------------------------------------------------------


def tiny() -> LanguageModel:
    params = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_layers": 1, "num_heads": 2}
    return llmc.load("small", params=params)


def recipe(steps: int, **changes: float) -> Recipe:
    return Recipe(steps=steps, batch_tokens=256, short_length=32, long_length=64, learning_rate=1e-2, **changes)  # type: ignore[arg-type]


STREAM = torch.arange(4000) * 7 % 40


def test_three_steps_lower_the_loss() -> None:
    run = Pretraining(tiny(), STREAM, recipe(3, warmup_share=0.0), bytes_per_token=4.0)
    losses = [run.advance() for _ in range(3)]
    assert losses[2] < losses[1] < losses[0]
    assert run.progress == 1
    assert run.tokens == 3 * 256
    assert run.measure(1.0).loss == pytest.approx(sum(losses) / 3, abs=1e-4)


def test_the_clock_ends_a_run() -> None:
    run = Pretraining(tiny(), STREAM, recipe(1_000_000, minutes=1e-6), bytes_per_token=4.0)
    run.advance()
    assert run.progress >= 1


def test_an_epoch_cuts_every_token_once() -> None:
    per_epoch = (len(STREAM) - 1 - 32) // 32
    places = torch.arange(len(STREAM))
    seen = [cut_windows(places, step=step, rows=1, length=32, seed=0)[0, :-1] for step in range(per_epoch)]
    assert torch.cat(seen).unique().numel() == per_epoch * 32


def test_sliding_windows_cost_what_one_window_costs(model: LanguageModel) -> None:
    ids = torch.tensor([1, *range(300, 360)])
    whole = token_bits(model, ids, context=512, stride=256)
    slid = token_bits(model, ids, context=16, stride=8)
    assert len(whole) == len(slid) == 60
    torch.testing.assert_close(slid[:16], whole[:16], rtol=1e-2, atol=1e-2)


def test_the_tokenizer_keeps_every_byte() -> None:
    tokenizer = train_tokenizer(["And God said, Let there be light: and there was light."] * 3, 280)
    text = "Ünïcode and\ttabs 漢"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert isinstance(tokenizer, RustTokenizer)
    assert tokenizer.encode(text).ids[0] == 1


def test_documents_are_parted_by_their_special_tokens(model: LanguageModel) -> None:
    assert model.tokenizer is not None
    ids = encode_documents(model.tokenizer, ["Amen.", "Selah."]).tolist()
    assert ids[0] == 1
    assert ids[-1] == 2
    assert ids.count(1) == ids.count(2) == 2


def test_whole_books_are_held_out(tmp_path: Path) -> None:
    (tmp_path / "verses.txt").write_text(VERSES)
    corpus = read_corpus(tmp_path / "verses.txt")
    assert corpus.training == ("In the beginning. And the earth.", "Thus the heavens.", "Paul, called.")
    assert corpus.held_out == ("The former treatise.", "Paul, a servant.")


def test_any_text_is_split_by_paragraphs(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("\n\n".join(f"paragraph\n{i}" for i in range(40)))
    assert read_corpus(tmp_path / "plain.txt") == Corpus(
        training=tuple(f"paragraph {i}" for i in range(39)), held_out=("paragraph 39",)
    )


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), ("one paragraph", "too few"), ("Ge1:1 In\nno", "line 2")]
)
def test_a_text_that_will_not_do_says_so(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "text"
    if content is not None:
        file.write_text(content)
    with pytest.raises(TextError, match=message):
        read_corpus(file)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(king_james, "PROGRAM", "no-such-program")
    with pytest.raises(TextError, match=r"apt-get install bible-kjv .* --text FILE"):
        read_corpus(None)
