"""Which keys a query sees: by elements, and by whole blocks, as a plan tells what no query of a block sees."""

# pyright: basic
from __future__ import annotations

import triton
import triton.language as tl

from . import reference

GRANULE = tl.constexpr(reference.GRANULE)
RANGES = tl.constexpr(reference.RANGES)
FAR = tl.constexpr(reference.FAR)


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
def planned(p_plan, i_batch, i_first, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Of the ROWS rows from i_first on, by a plan: the blocks of COLUMNS columns to visit, from the first to one after
    the last, and those of them that need no mask."""
    o_granule = i_first // GRANULE + tl.arange(0, ROWS // GRANULE)
    m_granule = o_granule < tl.cdiv(rows, GRANULE)
    p_row = p_plan + (i_batch * tl.cdiv(rows, GRANULE) + o_granule) * RANGES
    begin = tl.min(tl.load(p_row, mask=m_granule, other=FAR), 0)
    end = tl.max(tl.load(p_row + 1, mask=m_granule, other=0), 0)
    whole = tl.max(tl.load(p_row + 2, mask=m_granule, other=0), 0)
    stop = tl.min(tl.load(p_row + 3, mask=m_granule, other=FAR), 0)
    before = tl.max(tl.load(p_row + 4, mask=m_granule, other=-1), 0)
    shift = tl.where(before >= 0, columns - rows, 0)
    end = tl.where(end > 0, tl.cdiv(tl.minimum(shift + end * GRANULE, columns), COLUMNS), 0)
    begin = tl.where(before > 0, 0, tl.minimum((shift + begin * GRANULE) // COLUMNS, end))
    whole = tl.minimum(tl.maximum(tl.cdiv(shift + whole * GRANULE, COLUMNS), begin), end)
    stop = tl.minimum(tl.maximum((shift + stop * GRANULE) // COLUMNS, whole), end)
    return begin, end, whole, stop
