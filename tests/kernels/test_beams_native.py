"""A beam search in C, many steps in one call, against the same steps through torch, on each path of instructions."""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

import ctypes

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llmc.runtime.beam_settings import BeamSettings
from llmc.runtime.beams import Beams, Record
from llmc.runtime.native.abi import BeamsStruct, CallStruct, DecodingStruct, PassStruct
from llmc.runtime.native.search import NativeSearch

from .native import library
from .test_greedy_native import SEGMENT, SOURCES

ISAS = ("native", "avx2", "portable")
LIMIT = 9
ENDS = (0, 3)


class Found:
    """What a search holds after some steps, and what its steps chose."""

    def __init__(self, beams: Beams, records: list[Record], lengths: Tensor) -> None:
        self.records, self.lengths, self.texts = records, lengths.tolist(), beams.texts(records)
        self.next, self.open = beams.tokens.tolist(), beams.state.is_open.tolist()


def begun(prompts: int, beams: int, vocab: int, penalty: float, length: float) -> Beams:
    settings = BeamSettings(num_beams=beams, length_penalty=length)
    made = Beams(
        settings, prompts=prompts, vocab_size=vocab, ends=ENDS, device=torch.device("cpu"), counts=penalty != 1
    )
    history = [[1, number % vocab] for number in range(prompts)]
    made.begin(torch.full((prompts,), 2), history, ends=ENDS, penalty=penalty)
    return made


def rules(beams: Beams, steps: int) -> list[tuple[float, ...]]:
    """Texts may end from the second token on."""
    return [(*beams.settings.rule(count, LIMIT), float(count > 1)) for count in range(1, steps + 1)]


def through_torch(beams: Beams, table: Tensor) -> Found:
    records: list[Record] = []
    lengths = torch.full((table.shape[1],), 2)
    for (*rule, may_end), logits in zip(rules(beams, len(table)), table, strict=True):
        if not bool(beams.state.is_open.any()):
            break
        lengths += beams.state.is_open.repeat_interleave(beams.settings.num_beams)
        beams.advance(logits.clone(), lengths, torch.tensor(rule), banned=None if may_end else beams.ends)
        if beams.seen is not None:
            beams.seen.copy_(beams.seen[beams.source])
        beams.mark()
        records.append(beams.record())
    return Found(beams, records, lengths)


def in_c(isa: str, beams: Beams, table: Tensor, threads: int) -> Found:
    module = library(isa, SOURCES, SEGMENT)
    module.llmc_team_new.restype, module.llmc_search.restype = ctypes.c_void_p, ctypes.c_int64
    module.llmc_team_new.argtypes = (ctypes.c_int, ctypes.c_size_t)
    module.llmc_team_free.argtypes = (ctypes.c_void_p,)
    module.llmc_search.argtypes = (*(ctypes.c_void_p,) * 3, *(ctypes.c_int64,) * 2, *(ctypes.c_void_p,) * 2)
    _, rows, vocab = table.shape
    logits, state = torch.empty(rows, vocab), torch.tensor([0, rows * vocab])
    inputs = (ctypes.c_void_p * 2)(table.data_ptr(), logits.data_ptr())
    run = PassStruct(batch=rows, tokens=1, rows=rows, inputs=ctypes.addressof(inputs))
    call = CallStruct(function=0, slots=state.data_ptr())

    def search(tokens: Tensor, lengths: Tensor, steps: int, struct: BeamsStruct) -> int:
        position = torch.zeros(rows, dtype=torch.int64)
        decoding = DecodingStruct(tokens.data_ptr(), position.data_ptr(), lengths.data_ptr(), logits.data_ptr(), vocab)
        team = module.llmc_team_new(threads, 4096)
        pointers = [ctypes.addressof(one) for one in (run, call)]
        done = module.llmc_search(team, *pointers, 1, steps, ctypes.addressof(decoding), ctypes.addressof(struct))
        module.llmc_team_free(team)
        return done

    records, lengths = NativeSearch(search, beams, []).search(torch.full((rows,), 2), rules(beams, len(table)))
    return Found(beams, records, lengths)


@pytest.mark.parametrize("isa", ISAS)
@given(
    prompts=st.integers(1, 2),
    beams=st.integers(1, 4),
    vocab=st.sampled_from([12, 31, 64, 130]),
    penalty=st.sampled_from([1.0, 1.3]),
    length=st.sampled_from([-1.0, 0.0, 1.0]),
    steps=st.integers(1, LIMIT),
    threads=st.integers(1, 2),
    seed=st.integers(0, 999),
)
def test_steps_are_those_through_torch(
    isa: str, prompts: int, beams: int, vocab: int, penalty: float, length: float, steps: int, threads: int, seed: int
) -> None:
    table = torch.randn(steps, prompts * beams, vocab, generator=torch.Generator().manual_seed(seed)) * 2
    expected = through_torch(begun(prompts, beams, vocab, penalty, length), table)
    found = in_c(isa, begun(prompts, beams, vocab, penalty, length), table, threads)
    assert (len(found.records), found.lengths, found.open) == (len(expected.records), expected.lengths, expected.open)
    for ours, exact in zip(found.texts, expected.texts, strict=True):
        assert [tokens for tokens, _ in ours] == [tokens for tokens, _ in exact]
        assert [score for _, score in ours] == pytest.approx([score for _, score in exact], rel=1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_equal_scores_give_the_lower_token(isa: str) -> None:
    table = torch.zeros(2, 2, 70)
    table[:, :, [5, 8, 66]] = 1.0
    found = in_c(isa, begun(1, 2, 70, 1.0, 1.0), table, 1)
    assert found.records == through_torch(begun(1, 2, 70, 1.0, 1.0), table).records
    assert found.records[0][0] == [[5, 8]]
