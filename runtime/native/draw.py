"""How the rows of a batch draw their tokens, as `llmc_sampling` of `kernels/sampling/native.h` has it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from ..sampling import Drawing, mix
from .abi import SamplingStruct

WORKSPACE_FLOATS = 7
"""A token of the vocabulary: `LLMC_SAMPLING_FLOATS`."""
MOST_FLOAT = torch.finfo(torch.float32).max


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """The struct, and the memory that it points to."""

    struct: SamplingStruct
    memory: tuple[object, ...]

    @property
    def address(self) -> int:
        return ctypes.addressof(self.struct)


def make_draw(drawing: Drawing, vocab_size: int, steps: int) -> Draw | None:
    """What the next `steps` tokens of every row are drawn by; None where each is the likeliest."""
    sampling = drawing.sampling
    if sampling.takes_likeliest:
        return None
    rows = len(drawing.generated)
    seeds = (ctypes.c_int64 * rows)(*(mix(sampling.seed, row) for row in range(rows)))
    drawn = (ctypes.c_int64 * rows)(*drawing.generated)
    workspace = torch.empty(vocab_size * WORKSPACE_FLOATS)
    struct = SamplingStruct(
        temperature=0.0 if sampling.is_greedy else min(sampling.temperature, MOST_FLOAT),
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        top_k=sampling.top_k,
        seeds=ctypes.addressof(seeds),
        steps=ctypes.addressof(drawn),
        workspace=workspace.data_ptr(),
    )
    memory = (seeds, drawn, workspace)
    return Draw(
        struct=struct,
        memory=memory if sampling.repetition_penalty == 1 else (*memory, *_note(drawing, vocab_size, steps, struct)),
    )


def _note(drawing: Drawing, vocab_size: int, steps: int, struct: SamplingStruct) -> tuple[Tensor, ...]:
    """Tell the struct which tokens each row has seen, with room for those of the next steps."""
    seen = [sorted({token for token in row if 0 <= token < vocab_size}) for row in drawing.history]
    room = max(map(len, seen)) + steps
    ids = torch.tensor([row + [0] * (room - len(row)) for row in seen])
    generated, count = torch.zeros_like(ids), torch.tensor([len(row) for row in seen])
    struct.seen, struct.generated, struct.seen_count = (x.data_ptr() for x in (ids, generated, count))
    struct.room = room
    return ids, generated, count
