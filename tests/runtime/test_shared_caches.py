"""`cache:` at run time: a reader sees all that its producer's state gives, wherever the two stand."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import llmc
from llmc.runtime.model import LanguageModel

TOKENS, VOCAB = 23, 29
SPEC = """
llmc: 1
name: shared
summary: Readers beside their producer, in the same block, and in another repeat
params: {max_seq_len: 64}
blocks:
  writer:
    in: x
    nodes:
      k: {op: linear, in: x, features: 12}
      own: {op: attention, in: [x, k, k], head_dim: 6, WRITES}
      second: {op: attention, q: own, cache: "write.${layer}.own", head_dim: 6, READS}
      sum: {op: add, in: [x, second]}
    out: sum
  reader:
    in: x
    nodes:
      attend: {op: attention, q: x, cache: write.0.own, head_dim: 6, READS}
      of_top: {op: attention, q: attend, cache: top, head_dim: 6, READS}
      sum: {op: add, in: [x, of_top]}
    out: sum
graph:
  in: tokens
  nodes:
    embed: {op: embedding, in: tokens, rows: 29, features: 24, init_std: 1.0}
    top: {op: attention, in: [embed, embed, embed], head_dim: 6, WRITES}
    beside: {op: attention, q: top, cache: top, head_dim: 6, READS}
    write: {block: writer, in: beside, repeat: 2}
    read: {block: reader, in: write, repeat: 3}
    lm_head: {op: linear, in: read, features: 29}
  out: {logits: lm_head}
"""
KINDS = {
    "all": ("scale: 0.7", "scale: 0.7"),
    "window": ("window: 5", "window: 5"),
    "narrower": ("window: 5", "window: 3"),
    "chunk": ("chunk: 7", "chunk: 7"),
    "window_of_all": ("scale: 0.7", "window: 4"),
}


@pytest.fixture(params=KINDS.values(), ids=list(KINDS))
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    writes, reads = request.param
    made = tmp_path / "shared.yaml"
    made.write_text(SPEC.replace("WRITES", writes).replace("READS", reads))
    return made


@pytest.fixture
def model(file: Path) -> LanguageModel:
    return llmc.load(file, seed=3, dtype="float64")


def whole(model: LanguageModel, tokens: Tensor) -> Tensor:
    """Through the module tree, where readers take the producer's own keys of this call."""
    with torch.enable_grad():
        return model(tokens).detach()


@pytest.mark.parametrize("sizes", [[TOKENS], [1] * TOKENS, [9, 1, 1, 7, 5], [2, 20, 1]], ids=str)
def test_pieces_equal_the_whole(model: LanguageModel, sizes: list[int]) -> None:
    tokens = torch.randint(0, VOCAB, (2, TOKENS), generator=torch.Generator().manual_seed(1))
    cache = model.new_cache(2, TOKENS)
    found = torch.cat([model(piece, cache=cache) for piece in tokens.split(sizes, dim=1)], dim=1)
    assert (found - whole(model, tokens)).abs().max() < 1e-9


@pytest.mark.parametrize("sizes", [[TOKENS], [1] * TOKENS, [5, 18], [9, 1, 13]], ids=str)
def test_machine_code_equals_the_whole(file: Path, sizes: list[int]) -> None:
    """A long piece writes over what its first tokens still see in a ring, for every reader of it."""
    model, tokens = llmc.load(file, seed=3), torch.arange(2 * TOKENS).view(2, TOKENS) % VOCAB
    cache = model.new_cache(2, TOKENS)
    found = torch.cat([model(piece, cache=cache) for piece in tokens.split(sizes, dim=1)], dim=1)
    assert (found - whole(model, tokens)).abs().max() < 2e-5


def test_only_producers_have_state(model: LanguageModel) -> None:
    assert sorted(model.new_cache(1, TOKENS).states) == ["top", "write.0.own", "write.1.own"]


def test_padding_and_rollback(model: LanguageModel) -> None:
    generator = torch.Generator().manual_seed(2)
    first, second = (torch.randint(0, VOCAB, (size,), generator=generator) for size in (11, 6))
    tokens, mask = torch.zeros(2, 11, dtype=torch.int64), torch.ones(2, 11, dtype=torch.bool)
    tokens[0], tokens[1, 5:], mask[1, :5] = first, second, False
    cache = model.new_cache(2, TOKENS)
    logits = model(tokens, attention_mask=mask, cache=cache)
    assert (logits[0] - whole(model, first[None])[0]).abs().max() < 1e-9
    assert (logits[1, 5:] - whole(model, second[None])[0]).abs().max() < 1e-9
    cache.rollback(2)
    new = torch.randint(0, VOCAB, (2, 3), generator=generator)
    logits = model(new, cache=cache)
    for row, kept in enumerate((first[:-2], second[:-2])):
        expected = whole(model, torch.cat([kept, new[row]])[None])[0, -3:]
        assert (logits[row] - expected).abs().max() < 1e-9
