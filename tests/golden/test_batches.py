"""Rows of unequal length, padded left or right, equal each row alone and the reference's row alone."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import pytest
import torch
from torch import Tensor

from llmc.runtime.model import LanguageModel

from .comparison import tolerance
from .families import VOCAB, each_causal
from .reference import TOKENS, Golden
from .running import RUNS, Run, named

LENGTHS = (TOKENS, 1, 23, 8)
SIDES = ("left", "right")


def padded(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    """Rows `[T_i]` as one batch with its mask; padding holds arbitrary ids."""
    width = max(len(row) for row in rows)
    tokens = torch.randint(0, VOCAB, (len(rows), width))
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        tokens[index, place], mask[index, place] = row, True
    return tokens, mask


def some_rows() -> list[Tensor]:
    return [torch.randint(0, VOCAB, (length,)) for length in LENGTHS]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_padded_rows_equal_rows_alone(golden: Golden, model: LanguageModel, run: Run, side: str) -> None:
    rows = some_rows()
    tokens, mask = padded(rows, side)
    together = run(model, tokens, mask)
    for index, row in enumerate(rows):
        alone, expected = run(model, row[None]), golden.ask(row[None])
        for name, value in together.items():
            kept = value[index][mask[index]] if value.shape[:2] == mask.shape else value[index]
            assert (kept - alone[name][0]).abs().max() < golden.rounding_apart(name), name
            assert (kept - expected[name][0]).abs().max() < tolerance(expected[name]), name


@each_causal
@pytest.mark.parametrize("side", SIDES)
def test_padded_prefill_then_decode(golden: Golden, model: LanguageModel, side: str) -> None:
    """Ragged rows go on token by token, some of them pausing, and each equals its whole sequence in the reference."""
    rows = some_rows()
    whole = [list(row.tolist()) for row in rows]
    tokens, mask = padded(rows, side)
    cache = model.new_cache(len(rows), TOKENS + 8)
    logits = named(model(tokens, mask, cache))["logits"]
    last = [logits[index][mask[index]][-1] for index in range(len(rows))]
    for step in range(8):
        active = torch.tensor([(step + index) % 3 != 0 for index in range(len(rows))])[:, None]
        new = torch.randint(0, VOCAB, (len(rows), 1))
        logits = named(model(new, active, cache))["logits"]
        for index in active[:, 0].nonzero()[:, 0].tolist():
            whole[index].append(int(new[index]))
            last[index] = logits[index, -1]
    assert cache.lengths.tolist() == [len(row) for row in whole]
    for index, row in enumerate(whole):
        expected = golden.ask(torch.tensor([row]))["logits"]
        assert (last[index] - expected[0, -1]).abs().max() < tolerance(expected)


@each_causal
def test_ragged_chunks_of_ragged_rows(golden: Golden, model: LanguageModel) -> None:
    """Each call gives every row a piece of its own length, nothing included."""
    tokens = torch.randint(0, VOCAB, (3, TOKENS))
    cuts = torch.tensor([[4, 0, 9, 1, 14, 9], [0, 11, 1, 12, 1, 12], [1, 1, 1, 1, 1, 32]])
    assert (cuts.sum(dim=1) == TOKENS).all()
    cache, done = model.new_cache(3, TOKENS), [0, 0, 0]
    seen: list[list[Tensor]] = [[], [], []]
    for step in range(cuts.shape[1]):
        pieces = [tokens[row, done[row] : done[row] + int(cuts[row, step])] for row in range(3)]
        batch, mask = padded(pieces, SIDES[step % 2])
        logits = named(model(batch, mask, cache))["logits"]
        for row, piece in enumerate(pieces):
            seen[row].append(logits[row][mask[row]])
            done[row] += len(piece)
    expected = golden.ask(tokens)["logits"]
    assert (torch.stack([torch.cat(parts) for parts in seen]) - expected).abs().max() < tolerance(expected)
