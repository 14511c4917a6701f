"""Greedy decoding in C: the first of the largest logits of each row, ends of rows, and logits that have none."""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

import ctypes

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmc.runtime.native.abi import CallStruct, DecodingStruct, PassStruct

from .native import KERNELS, library

SEGMENT = f"""
#include <string.h>
#include "{KERNELS / "native" / "program.h"}"
/* Step i writes the logits i of a table, [steps, batch, vocab]; slots: step so far, floats a step. */
static void write_logits(llmc_thread *t, const llmc_pass *pass, const llmc_call *call) {{
    LLMC_FOR(t, chunk, 1) {{
        int64_t *state = (int64_t *)call->slots;
        memcpy(pass->inputs[1], (const float *)pass->inputs[0] + state[0]++ * state[1], state[1] * sizeof(float));
    }}
}}
llmc_segment *const llmc_segments[] = {{write_logits}};
"""
SOURCES = tuple(
    KERNELS / name for name in ("native/team.c", "native/program.c", "sampling/native.c", "sampling/beams.c")
)


@pytest.mark.parametrize("isa", ["native", "avx2", "portable"])
@given(
    batch=st.integers(1, 3),
    steps=st.integers(0, 6),
    vocab=st.sampled_from([1, 2, 15, 16, 17, 40]),
    bad=st.none() | st.tuples(st.integers(0, 5), st.sampled_from([float("nan"), float("inf")])),
    threads=st.integers(1, 2),
    seed=st.integers(0, 999),
)
def test_greedy(
    isa: str, batch: int, steps: int, vocab: int, bad: tuple[int, float] | None, threads: int, seed: int
) -> None:
    module = library(isa, SOURCES, SEGMENT)
    module.llmc_team_new.restype, module.llmc_decode.restype = ctypes.c_void_p, ctypes.c_int64
    module.llmc_team_new.argtypes = (ctypes.c_int, ctypes.c_size_t)
    module.llmc_team_free.argtypes = (ctypes.c_void_p,)
    module.llmc_decode.argtypes = (*(ctypes.c_void_p,) * 3, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    generator = torch.Generator().manual_seed(seed)
    table = torch.randint(-3, 4, (steps, batch, vocab), generator=generator).float()  # equals on purpose
    if bad is not None and bad[0] < steps:
        table[bad[0], -1, -1] = bad[1]
    ends = torch.tensor([0, 5])
    expected = torch.full((steps, batch), -1)
    alive, done = [True] * batch, 0
    for step in range(steps):
        if not any(alive) or not all(bool(table[step, row].isfinite().all()) for row in range(batch) if alive[row]):
            break
        for row in range(batch):
            if alive[row]:
                expected[step, row] = int(table[step, row].argmax())
                alive[row] = int(expected[step, row]) not in ends.tolist()
        done += 1

    logits, chosen = torch.empty(batch, vocab), torch.full((steps, batch), -7)
    held, tokens, position = torch.full((batch,), 4), torch.zeros(batch, dtype=torch.int64), torch.zeros(batch).long()
    state = torch.tensor([0, batch * vocab])
    inputs = (ctypes.c_void_p * 2)(table.data_ptr(), logits.data_ptr())
    run = PassStruct(batch=batch, tokens=1, rows=batch, inputs=ctypes.addressof(inputs))
    call = CallStruct(function=0, slots=state.data_ptr())
    greedy = DecodingStruct(tokens.data_ptr(), position.data_ptr(), held.data_ptr(), logits.data_ptr(), vocab)
    greedy.ends, greedy.ends_count, greedy.chosen = ends.data_ptr(), len(ends), chosen.data_ptr()
    team = module.llmc_team_new(threads, 4096)
    found = module.llmc_decode(team, *map(ctypes.addressof, (run, call)), 1, steps, ctypes.addressof(greedy))
    module.llmc_team_free(team)
    assert found == done
    assert torch.equal(chosen[:done], expected[:done])
    assert held.tolist() == [4 + int((expected[:done, row] >= 0).sum()) for row in range(batch)]
    assert [int(p) >= 0 for p in position] == alive
