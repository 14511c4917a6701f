"""Which expert works on which tokens, found on the GPU: a stable counting sort of the picks, and a table of tiles.

Four small launches and no look from the host. Picks are counted in blocks, by comparison with all experts at once; an
expert's counts are summed over blocks; each block then knows where its picks go.
"""

# pyright: basic
from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.op import launchable
from ..gpu.sizes import ceil_div, power_of_2

HELD = 16384
"""Comparisons that one program holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """Picks by expert. A slot is `token * K + k`; a position is its place among all slots, expert by expert.

    Tiles are at most `block` positions of one expert; there are `count[0]` of them, known on the GPU only, and room for
    as many as any picks may need.
    """

    slots: Tensor
    """`[N * K]` int32, by position."""
    positions: Tensor
    """`[N * K]` int32, by slot."""
    starts: Tensor
    """`[E + 1]` int32, the first position of each expert."""
    tiles: Tensor
    """`[most, 2]` int32, the expert of each tile and its first position."""
    count: Tensor
    """`[1]` int32."""
    block: int


@triton.jit
def _count(p_picks, p_counts, slots, E, BLOCK: tl.constexpr, BLOCK_E: tl.constexpr):
    i_block, o_e = tl.program_id(0), tl.arange(0, BLOCK_E)
    o_slot = i_block * BLOCK + tl.arange(0, BLOCK)
    b_pick = tl.load(p_picks + o_slot, mask=o_slot < slots, other=-1).to(tl.int32)
    b_count = tl.sum((b_pick[:, None] == o_e[None, :]).to(tl.int32), 0)
    tl.store(p_counts + i_block * E + o_e, b_count, mask=o_e < E)


@triton.jit
def _sum_blocks(p_counts, p_totals, blocks, E, BLOCK: tl.constexpr):
    """Of one expert: each block's count becomes the sum of those before it."""
    i_e, o_block = tl.program_id(0), tl.arange(0, BLOCK)
    total = tl.sum(tl.zeros((BLOCK,), tl.int32), 0)
    for start in range(0, blocks, BLOCK):
        m_block = start + o_block < blocks
        b_count = tl.load(p_counts + (start + o_block) * E + i_e, mask=m_block, other=0)
        tl.store(p_counts + (start + o_block) * E + i_e, total + tl.cumsum(b_count, 0) - b_count, mask=m_block)
        total += tl.sum(b_count, 0)
    tl.store(p_totals + i_e, total)


@triton.jit
def _list_tiles(
    p_totals, p_starts, p_tiles, p_count, E, TILE: tl.constexpr, BLOCK: tl.constexpr, BLOCK_E: tl.constexpr
):
    """The tiles of one expert, behind those of all experts before it."""
    i_e, o_e, o_tile = tl.program_id(0), tl.arange(0, BLOCK_E), tl.arange(0, BLOCK)
    b_total = tl.load(p_totals + o_e, mask=o_e < E, other=0)
    b_tiles = (b_total + TILE - 1) // TILE
    start, first = tl.sum(tl.where(o_e < i_e, b_total, 0), 0), tl.sum(tl.where(o_e < i_e, b_tiles, 0), 0)
    tl.store(p_starts + i_e, start)
    mine = tl.sum(tl.where(o_e == i_e, b_tiles, 0), 0)
    for i in range(0, mine, BLOCK):
        o_row = (first + i + o_tile) * 2
        tl.store(p_tiles + o_row, tl.zeros((BLOCK,), tl.int32) + i_e, mask=i + o_tile < mine)
        tl.store(p_tiles + o_row + 1, start + (i + o_tile) * TILE, mask=i + o_tile < mine)
    if i_e == 0:
        tl.store(p_count, tl.sum(b_tiles, 0))
        tl.store(p_starts + E, tl.sum(b_total, 0))


@triton.jit
def _place(
    p_picks, p_counts, p_starts, p_slots, p_positions, slots, E, BLOCK: tl.constexpr, BLOCK_E: tl.constexpr
):  # fmt: skip
    i_block, o_e = tl.program_id(0), tl.arange(0, BLOCK_E)
    o_slot = i_block * BLOCK + tl.arange(0, BLOCK)
    b_pick = tl.load(p_picks + o_slot, mask=o_slot < slots, other=-1).to(tl.int32)
    b_before = tl.load(p_counts + i_block * E + o_e, mask=o_e < E, other=0)
    b_before += tl.load(p_starts + o_e, mask=o_e < E, other=0)
    b_is = (b_pick[:, None] == o_e[None, :]).to(tl.int32)
    b_position = tl.sum(b_is * (b_before[None, :] + tl.cumsum(b_is, 0) - 1), 1)
    tl.store(p_positions + o_slot, b_position, mask=o_slot < slots)
    tl.store(p_slots + b_position, o_slot, mask=o_slot < slots)


def most_tiles(slots: int, num_experts: int, block: int) -> int:
    """Tiles that any picks may need: each expert in use has at most one that is not full."""
    return slots // block + min(slots, num_experts)


def dispatch(picks: Tensor, num_experts: int, block: int) -> Dispatch:
    """picks `[..., K]` int64 below num_experts, contiguous, at least one -> their dispatch in tiles of `block`."""
    slots, block_e = picks.numel(), power_of_2(num_experts)
    held = max(16, min(256, HELD // block_e))
    blocks = ceil_div(slots, held)

    def empty(*shape: int) -> Tensor:
        return picks.new_empty(shape, dtype=torch.int32)

    counts, totals = empty(blocks, num_experts), empty(num_experts)
    found = Dispatch(
        slots=empty(slots),
        positions=empty(slots),
        starts=empty(num_experts + 1),
        tiles=empty(most_tiles(slots, num_experts, block), 2),
        count=empty(1),
        block=block,
    )
    launchable(_count)[(blocks,)](picks, counts, slots, num_experts, BLOCK=held, BLOCK_E=block_e)
    launchable(_sum_blocks)[(num_experts,)](counts, totals, blocks, num_experts, BLOCK=min(4096, power_of_2(blocks)))
    launchable(_list_tiles)[(num_experts,)](
        totals, found.starts, found.tiles, found.count, num_experts, TILE=block, BLOCK=128, BLOCK_E=block_e
    )
    launchable(_place)[(blocks,)](
        picks, counts, found.starts, found.slots, found.positions, slots, num_experts, BLOCK=held, BLOCK_E=block_e
    )
    return found
