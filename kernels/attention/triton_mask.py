"""Which keys a query sees: by elements, and, as a plan tells, by blocks."""

# pyright: basic, reportGeneralTypeIssues=false
from __future__ import annotations

import triton
import triton.language as tl

from . import reference

GRANULE = tl.constexpr(reference.GRANULE)
RANGES = tl.constexpr(reference.RANGES)
LEVELS = tl.constexpr(reference.LEVELS)


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
def planned(
    p_plan, i_batch, i_block, rows, columns, HAS_RING: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """Of a block of ROWS rows, by a plan: the blocks of COLUMNS columns to visit, from the first to one after the last,
    and those of them that need no mask."""
    tl.static_assert(ROWS <= GRANULE * 2 ** (LEVELS - 1), "a plan has no blocks of so many rows")
    count, i_row = rows * 0, i_block
    for level in tl.static_range(LEVELS):
        if GRANULE * 2**level < ROWS:
            i_row += tl.cdiv(rows, GRANULE * 2**level)
        count += tl.cdiv(rows, GRANULE * 2**level)
    p_row = p_plan + (i_batch * count + i_row) * RANGES
    each: tl.constexpr = COLUMNS // GRANULE
    begin, end = tl.load(p_row), tl.load(p_row + 1)
    whole, stop = tl.load(p_row + 2), tl.load(p_row + 3)
    if HAS_RING:
        before = tl.load(p_row + 4)
        shift = tl.where(before >= 0, columns - rows, 0)
        begin = tl.where(before > 0, 0, (shift + begin * GRANULE) // COLUMNS)
        end = tl.where(end > 0, tl.cdiv(tl.minimum(shift + end * GRANULE, columns), COLUMNS), 0)
        whole = tl.minimum(tl.cdiv(shift + whole * GRANULE, COLUMNS), end)
        stop = tl.minimum((shift + stop * GRANULE) // COLUMNS, end)
    else:
        begin, end, whole, stop = begin // each, tl.cdiv(end, each), tl.cdiv(whole, each), stop // each
    return begin, end, whole, tl.maximum(stop, whole)
