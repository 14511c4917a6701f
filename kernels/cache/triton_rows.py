"""Rows of states that go on from other rows, in Triton: `rows.copy_rows`, one launch for all buffers of a cache.

Floor: the bytes of what differs, read and written, over memory bandwidth: for beams the few tokens since they parted,
and the states of constant size. Programs without work look at one number and end.
"""

# pyright: basic
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.op import gpu_op, launchable
from . import rows
from .rows import Part, described

SPLIT = 4
"""Programs that share a row of a buffer."""
BLOCK = 1024


@triton.jit
def _copy(
    p_table, p_source, p_first, p_length, UNIT: tl.constexpr, SPLIT: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """A part of one row of one buffer. A buffer of no slots is one slot, copied whole."""
    i_part, i_buffer, i_row = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    source = tl.load(p_source + i_row)
    if source != i_row:
        p_entry = p_table + i_buffer * 4
        address, heads, slots, width = (
            tl.load(p_entry), tl.load(p_entry + 1), tl.load(p_entry + 2), tl.load(p_entry + 3)
        )  # fmt: skip
        is_whole = slots == 0
        slots = tl.where(is_whole, 1, slots)
        last = tl.where(is_whole, 1, tl.load(p_length + i_row))
        first = tl.where(is_whole, 0, tl.maximum(tl.load(p_first + i_row), last - slots))
        run = tl.maximum(last - first, 0) * width
        total = heads * run
        if UNIT == 8:
            p_buffer = address.to(tl.pointer_type(tl.int64))
        elif UNIT == 4:
            p_buffer = address.to(tl.pointer_type(tl.int32))
        elif UNIT == 2:
            p_buffer = address.to(tl.pointer_type(tl.int16))
        else:
            p_buffer = address.to(tl.pointer_type(tl.int8))
        row = heads * slots * width
        for start in range(i_part * BLOCK, total, SPLIT * BLOCK):
            o_x = start + tl.arange(0, BLOCK).to(tl.int64)
            m_x = o_x < total
            o_head, o_in = o_x // run, o_x % run
            o_to = (o_head * slots + (first + o_in // width) % slots) * width + o_in % width
            b_x = tl.load(p_buffer + source * row + o_to, mask=m_x, other=0)
            tl.store(p_buffer + i_row * row + o_to, b_x, mask=m_x)


def _launch(
    table: Tensor, unit: int, grown: list[Tensor], whole: list[Tensor], source: Tensor, first: Tensor, length: Tensor
) -> None:
    if len(table) and len(source):
        launchable(_copy)[(SPLIT, len(table), len(source))](
            table, source, first, length, UNIT=unit, SPLIT=SPLIT, BLOCK=BLOCK, num_warps=4
        )


def _fake(
    table: Tensor, unit: int, grown: list[Tensor], whole: list[Tensor], source: Tensor, first: Tensor, length: Tensor
) -> None:
    return None


def _reference(
    table: Tensor, unit: int, grown: list[Tensor], whole: list[Tensor], source: Tensor, first: Tensor, length: Tensor
) -> None:
    parts = [*((buffer, False) for buffer in grown), *((buffer, True) for buffer in whole)]
    rows.copy_rows(parts, source=source, first=first, length=length)


_copy_rows = gpu_op("copy_rows", _launch, fake=_fake, reference=_reference, mutates_args=("grown", "whole"))


class RowCopies:
    """`rows.copy_rows` of buffers that never move."""

    def __init__(self, parts: list[Part], device: torch.device) -> None:
        """Raises ValueError for buffers that are not contiguous."""
        found, self._unit = described(parts) if parts else ([], 8)
        self._table = torch.tensor(found, dtype=torch.int64).reshape(-1, 4).to(device)
        self._grown, self._whole = ([x for x, is_whole in parts if is_whole is wanted] for wanted in (False, True))

    def __call__(self, *, source: Tensor, first: Tensor, length: Tensor) -> None:
        """As `rows.copy_rows`. Nothing is read on the host."""
        _copy_rows(self._table, self._unit, self._grown, self._whole, source, first, length)
