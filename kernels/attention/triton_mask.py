"""Which keys a query sees, by elements and by whole blocks: what lets attention skip what no query of a block sees."""

# pyright: basic
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.op import launchable
from ..gpu.sizes import ceil_div, power_of_2
from .triton_scores import NEVER

RANGES = 4
"""Columns of a plan: the first block that is seen, the one after the last, and the same of those seen as a whole."""


@triton.jit
def visible(
    b_query, b_key, window, chunk,
    CAUSAL: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_CHUNK: tl.constexpr,
):  # fmt: skip
    """`reference.visible_keys` of int32 positions that broadcast; a padded query is left to the caller."""
    m_seen = b_key >= 0
    if CAUSAL:
        m_seen = m_seen & (b_key <= b_query)
    if HAS_WINDOW:
        m_seen = m_seen & (b_query - b_key < window)
        if not CAUSAL:
            m_seen = m_seen & (b_key - b_query < window)
    if HAS_CHUNK:
        m_seen = m_seen & (b_key // chunk == b_query // chunk)
    return m_seen


@triton.jit
def _spans(p_position, p_span, tokens, s_batch, blocks, SIZE: tl.constexpr, BLOCKS: tl.constexpr):
    """Of BLOCKS blocks of SIZE tokens: the first and the last position, and whether none is padding."""
    i_batch = tl.program_id(1).to(tl.int64)
    o_block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    o_token = o_block[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    b_position = tl.load(p_position + i_batch * s_batch + o_token, mask=o_token < tokens, other=-1).to(tl.int32)
    p_row = p_span + i_batch * 3 * blocks + o_block
    m_block = o_block < blocks
    tl.store(p_row, tl.min(tl.where(b_position >= 0, b_position, NEVER), 1), mask=m_block)
    tl.store(p_row + blocks, tl.max(b_position, 1), mask=m_block)
    tl.store(p_row + 2 * blocks, tl.min((b_position >= 0).to(tl.int32), 1), mask=m_block)


@triton.jit
def _seen(
    first, last, p_span, o_block, blocks, window, chunk,
    ROWS_ARE_QUERIES: tl.constexpr, CAUSAL: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_CHUNK: tl.constexpr,
):  # fmt: skip
    """Which column blocks meet a row block of positions from first to last: in part, and as a whole."""
    m_block = o_block < blocks
    b_first = tl.load(p_span + o_block, mask=m_block, other=NEVER)
    b_last = tl.load(p_span + blocks + o_block, mask=m_block, other=-1)
    m_seen = (b_last >= 0) & (last >= 0)
    m_whole = m_seen
    if ROWS_ARE_QUERIES:
        # A key that is padding must be masked. A query that is padding weighs nothing, by its logsumexp.
        m_whole = m_whole & (tl.load(p_span + 2 * blocks + o_block, mask=m_block, other=0) != 0)
        q_first, q_last, k_first, k_last = first, last, b_first, b_last
    else:
        q_first, q_last, k_first, k_last = b_first, b_last, first, last
    if CAUSAL:
        m_seen = m_seen & (k_first <= q_last)
        m_whole = m_whole & (k_last <= q_first)
    if HAS_WINDOW:
        m_seen = m_seen & (q_first - k_last < window)
        m_whole = m_whole & (q_last - k_first < window)
        if not CAUSAL:
            m_seen = m_seen & (k_first - q_last < window)
            m_whole = m_whole & (k_last - q_first < window)
    if HAS_CHUNK:
        m_seen = m_seen & (k_first // chunk <= q_last // chunk) & (q_first // chunk <= k_last // chunk)
        m_whole = m_whole & (k_first // chunk == q_last // chunk) & (q_first // chunk == k_last // chunk)
    return m_seen, m_seen & m_whole


@triton.jit
def _plan(
    p_position, p_span, p_plan, tokens, s_batch, blocks, window, chunk,
    ROWS_ARE_QUERIES: tl.constexpr, CAUSAL: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_CHUNK: tl.constexpr,
    SIZE: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """The range of column blocks that a block of SIZE rows meets, and one inside it that needs no mask."""
    i_row, i_batch = tl.program_id(0), tl.program_id(1).to(tl.int64)
    o_token = i_row * SIZE + tl.arange(0, SIZE)
    b_position = tl.load(p_position + i_batch * s_batch + o_token, mask=o_token < tokens, other=-1).to(tl.int32)
    first, last = tl.min(tl.where(b_position >= 0, b_position, NEVER), 0), tl.max(b_position, 0)
    p_span += i_batch * 3 * blocks
    begin, end, whole = blocks, blocks * 0, blocks
    for start in range(0, blocks, BLOCKS):
        o_block = start + tl.arange(0, BLOCKS)
        m_seen, m_whole = _seen(
            first, last, p_span, o_block, blocks, window, chunk, ROWS_ARE_QUERIES, CAUSAL, HAS_WINDOW, HAS_CHUNK
        )
        begin = tl.minimum(begin, tl.min(tl.where(m_seen, o_block, blocks), 0))
        end = tl.maximum(end, tl.max(tl.where(m_seen, o_block + 1, 0), 0))
        whole = tl.minimum(whole, tl.min(tl.where(m_whole, o_block, blocks), 0))
    begin = tl.minimum(begin, end)
    whole = tl.minimum(whole, end)
    stop = end
    for start in range(0, blocks, BLOCKS):
        o_block = start + tl.arange(0, BLOCKS)
        _, m_whole = _seen(
            first, last, p_span, o_block, blocks, window, chunk, ROWS_ARE_QUERIES, CAUSAL, HAS_WINDOW, HAS_CHUNK
        )
        m_after = (o_block >= whole) & (m_whole == 0)
        stop = tl.minimum(stop, tl.min(tl.where(m_after, o_block, blocks), 0))
    p_plan += (i_batch * tl.num_programs(0) + i_row) * 4
    tl.store(p_plan, begin)
    tl.store(p_plan + 1, end)
    tl.store(p_plan + 2, whole)
    tl.store(p_plan + 3, tl.maximum(stop, whole))


def plan_blocks(
    rows: Tensor, columns: Tensor, *, row_block: int, column_block: int, causal: bool, window: int, chunk: int,
    rows_are_queries: bool = True,
) -> Tensor:  # fmt: skip
    """For each block of rows the column blocks to visit -> `[B, ceil(rows / row_block), 4]` int32, `RANGES`.

    rows and columns are positions `[B, T or S]` int64 with last stride 1, -1 padding; window and chunk 0 for none. A
    block outside the first range holds no pair that sees each other, one inside the second only such pairs (but for
    padded queries). Two small launches, which read each position once or twice; T * S / (row_block * column_block)
    block pairs are compared, against row_block * column_block * D multiplications each in attention itself.
    """
    batch, blocks = columns.shape[0], ceil_div(columns.shape[1], column_block)
    row_blocks = ceil_div(rows.shape[1], row_block)
    span = torch.empty((batch, 3, blocks), dtype=torch.int32, device=rows.device)
    plan = torch.empty((batch, row_blocks, RANGES), dtype=torch.int32, device=rows.device)
    at_once = min(power_of_2(blocks), max(1, 4096 // column_block))
    launchable(_spans)[(ceil_div(blocks, at_once), batch)](
        columns, span, columns.shape[1], columns.stride(0), blocks, SIZE=column_block, BLOCKS=at_once
    )
    launchable(_plan)[(row_blocks, batch)](
        rows, span, plan, rows.shape[1], rows.stride(0), blocks, window, chunk, ROWS_ARE_QUERIES=rows_are_queries,
        CAUSAL=causal, HAS_WINDOW=window > 0, HAS_CHUNK=chunk > 0, SIZE=row_block,
        BLOCKS=min(power_of_2(blocks), 1024), num_warps=1 if blocks <= 256 else 4,
    )  # fmt: skip
    return plan
