"""Plans of masks in Triton: for each block of queries, or of keys, the granules of the other that it meets.

A plan depends on positions and on the mask's fields alone, not on heads, dtypes or the blocks of a kernel, so all
layers of one mask read the same (`passes/share_mask_plans`). Floor: 8 bytes a token. Of tokens two launches compare
`T * S / 128` pairs, against `128 * D` multiplications for each in one head of attention; of a cache one launch reads
the queries' positions.
"""

# pyright: basic, reportGeneralTypeIssues=false
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..kernel import Request
from ..record import called_with
from . import reference
from .fields import MaskPlan
from .triton_mask import GRANULE, LEVELS, RANGES
from .triton_scores import NEVER

AT_ONCE = 256
"""Granules whose positions one program looks through."""
ROWS = 16
"""Blocks of rows that one program plans."""
PAIRS = 2048
"""Of rows and granules, that it compares at once."""


def serves(request: Request) -> str | None:
    """None, or why nobody reads the plan."""
    return "kernels of one query a row find their keys themselves" if request.phase == "decode" else None


def serves_none(request: Request) -> str | None:
    """None, or why the plan is read."""
    return None if request.phase == "decode" else "kernels of many queries visit keys by it"


@triton.jit
def _lowest(b_position, window, chunk, HAS_WINDOW: tl.constexpr, HAS_CHUNK: tl.constexpr):
    """The lowest position that a query at this one sees."""
    b_lowest = b_position * 0
    if HAS_WINDOW:
        b_lowest = tl.maximum(b_lowest, b_position - window + 1)
    if HAS_CHUNK:
        b_lowest = tl.maximum(b_lowest, b_position // chunk * chunk)
    return b_lowest


@triton.jit
def _spans(p_position, p_span, tokens, s_batch, granules, BLOCK: tl.constexpr):
    """Of BLOCK granules: the first and the last position, and whether none is padding."""
    i_batch = tl.program_id(1).to(tl.int64)
    o_granule = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    o_token = o_granule[:, None] * GRANULE + tl.arange(0, GRANULE)[None, :]
    b_position = tl.load(p_position + i_batch * s_batch + o_token, mask=o_token < tokens, other=-1).to(tl.int32)
    p_row = p_span + i_batch * 3 * granules + o_granule
    m_granule = o_granule < granules
    tl.store(p_row, tl.min(tl.where(b_position >= 0, b_position, NEVER), 1), mask=m_granule)
    tl.store(p_row + granules, tl.max(b_position, 1), mask=m_granule)
    tl.store(p_row + 2 * granules, tl.min((b_position >= 0).to(tl.int32), 1), mask=m_granule)


@triton.jit
def _seen(
    first, last, p_span, o_granule, granules, window, chunk,
    BY_KEYS: tl.constexpr, CAUSAL: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_CHUNK: tl.constexpr,
):  # fmt: skip
    """Which granules of columns meet one of rows, of positions from first to last: in part, and as a whole."""
    m_granule = o_granule < granules
    b_first = tl.load(p_span + o_granule, mask=m_granule, other=NEVER)
    b_last = tl.load(p_span + granules + o_granule, mask=m_granule, other=-1)
    m_seen = (b_last >= 0) & (last >= 0)
    m_whole = m_seen
    if BY_KEYS:
        q_first, q_last, k_first, k_last = b_first, b_last, first, last
    else:
        # A key that is padding must be masked. A query that is padding weighs nothing, by its logsumexp.
        m_whole = m_whole & (tl.load(p_span + 2 * granules + o_granule, mask=m_granule, other=0) != 0)
        q_first, q_last, k_first, k_last = first, last, b_first, b_last
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
def _block(i_plan, rows):
    """The numbers and the sizes of a plan's blocks of rows."""
    i_row, size = i_plan, i_plan * 0 + GRANULE
    for level in tl.static_range(LEVELS - 1):
        count = tl.cdiv(rows, GRANULE * 2**level)
        is_later = (size == GRANULE * 2**level) & (i_row >= count)
        i_row = tl.where(is_later, i_row - count, i_row)
        size = tl.where(is_later, size * 2, size)
    return i_row, size


@triton.jit
def _plan(
    p_position, p_span, p_lengths, p_plan, tokens, s_batch, blocks, granules, window, chunk,
    BY_KEYS: tl.constexpr, CAUSAL: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_CHUNK: tl.constexpr,
    IS_CACHE: tl.constexpr, IS_RING: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The plan of ROWS blocks of rows."""
    i_batch = tl.program_id(1).to(tl.int64)
    o_plan = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    m_plan = o_plan < blocks
    i_row, size = _block(o_plan, tokens)
    o_place = tl.arange(0, GRANULE * 2 ** (LEVELS - 1))
    o_token = (i_row * size)[:, None] + o_place[None, :]
    m_token = (o_place[None, :] < size[:, None]) & (o_token < tokens)
    b_position = tl.load(p_position + i_batch * s_batch + o_token, mask=m_token, other=-1).to(tl.int32)
    first, last = tl.min(tl.where(b_position >= 0, b_position, NEVER), 1), tl.max(b_position, 1)
    if IS_CACHE:
        begin, end = _lowest(first, window, chunk, HAS_WINDOW, HAS_CHUNK) // GRANULE, last // GRANULE + 1
        whole = (_lowest(last, window, chunk, HAS_WINDOW, HAS_CHUNK) + GRANULE - 1) // GRANULE
        has_whole = whole < (first + 1) // GRANULE
        whole, stop = tl.where(has_whole, whole, end), tl.where(has_whole, (first + 1) // GRANULE, end)
    else:
        p_span += i_batch * 3 * granules
        begin, end, whole = o_plan * 0 + granules, o_plan * 0, o_plan * 0 + granules
        for start in range(0, granules, BLOCK):
            o_granule = start + tl.arange(0, BLOCK)[None, :]
            m_seen, m_whole = _seen(
                first[:, None], last[:, None], p_span, o_granule, granules, window, chunk, BY_KEYS, CAUSAL, HAS_WINDOW,
                HAS_CHUNK,
            )  # fmt: skip
            begin = tl.minimum(begin, tl.min(tl.where(m_seen, o_granule, granules), 1))
            end = tl.maximum(end, tl.max(tl.where(m_seen, o_granule + 1, 0), 1))
            whole = tl.minimum(whole, tl.min(tl.where(m_whole, o_granule, granules), 1))
        begin, whole = tl.minimum(begin, end), tl.minimum(whole, end)
        stop = end
        for start in range(0, granules, BLOCK):
            o_granule = start + tl.arange(0, BLOCK)[None, :]
            _, m_whole = _seen(
                first[:, None], last[:, None], p_span, o_granule, granules, window, chunk, BY_KEYS, CAUSAL, HAS_WINDOW,
                HAS_CHUNK,
            )  # fmt: skip
            m_after = (o_granule >= whole[:, None]) & (m_whole == 0)
            stop = tl.minimum(stop, tl.min(tl.where(m_after, o_granule, granules), 1))
    m_real = last >= 0
    p_row = p_plan + (i_batch * blocks + o_plan) * RANGES
    tl.store(p_row, tl.where(m_real, begin, 0), mask=m_plan)
    tl.store(p_row + 1, tl.where(m_real, end, 0), mask=m_plan)
    tl.store(p_row + 2, tl.where(m_real, whole, 0), mask=m_plan)
    tl.store(p_row + 3, tl.where(m_real, stop, 0), mask=m_plan)
    before = last * 0 - 1
    if IS_RING:
        seen = tl.load(p_lengths + i_batch).to(tl.int32) - _lowest(first, window, chunk, HAS_WINDOW, HAS_CHUNK)
        before = tl.where(m_real, tl.maximum(seen, 0), -1)
    tl.store(p_row + 4, before, mask=m_plan)


def _launch(
    position: Tensor, key_position: Tensor | None, lengths: Tensor | None, keys: str, causal: bool, window: int,
    chunk: int, by_keys: bool,
) -> Tensor:  # fmt: skip
    plan = _fake(position, key_position, lengths, keys, causal, window, chunk, by_keys)
    columns = position if key_position is None else key_position
    rows = columns if by_keys else position
    columns = position if by_keys else columns
    if not plan.numel():
        return plan
    rows, columns = (x if x.stride(-1) == 1 else x.contiguous() for x in (rows, columns))
    (batch, tokens), flags = rows.shape, {"HAS_WINDOW": window > 0, "HAS_CHUNK": chunk > 0}
    granules = max(1, ceil_div(columns.shape[1], reference.GRANULE))
    span = None
    if keys != "cache":
        span = torch.empty((batch, 3, granules), dtype=torch.int32, device=rows.device)
        block = min(power_of_2(granules), AT_ONCE)
        launchable(_spans)[(ceil_div(granules, block), batch)](
            columns, span, columns.shape[1], columns.stride(0), granules, BLOCK=block
        )
    launchable(_plan)[(ceil_div(plan.shape[1], ROWS), batch)](
        rows, span, lengths, plan, tokens, rows.stride(0), plan.shape[1], granules, window, chunk, BY_KEYS=by_keys,
        CAUSAL=causal, **flags, IS_CACHE=keys == "cache", IS_RING=keys == "ring", ROWS=ROWS,
        BLOCK=min(power_of_2(granules), PAIRS // ROWS),
    )  # fmt: skip
    return plan


def _fake(
    position: Tensor, key_position: Tensor | None, lengths: Tensor | None, keys: str, causal: bool, window: int,
    chunk: int, by_keys: bool,
) -> Tensor:  # fmt: skip
    rows = key_position if by_keys and key_position is not None else position
    wanted = MaskPlan(position=position, key_position=key_position, keys=keys)  # pyright: ignore[reportArgumentType]
    sizes = [reference.GRANULE * 2**level for level in range(reference.LEVELS)] if wanted.can_be_made else []
    blocks = sum(ceil_div(rows.shape[1], size) for size in sizes)
    return torch.empty((rows.shape[0], blocks, reference.RANGES), dtype=torch.int32, device=rows.device)


def _reference(
    position: Tensor, key_position: Tensor | None, lengths: Tensor | None, keys: str, causal: bool, window: int,
    chunk: int, by_keys: bool,
) -> Tensor:  # fmt: skip
    return reference.mask_plan(
        position=position, key_position=key_position, lengths=lengths, keys=keys,  # pyright: ignore[reportArgumentType]
        mask="causal" if causal else "bidirectional", window=window or None, chunk=chunk or None, by_keys=by_keys,
    )  # fmt: skip


_mask_plan = gpu_op("mask_plan", _launch, fake=_fake, reference=_reference)


@called_with(MaskPlan)
def mask_plan(given: MaskPlan) -> Tensor:
    """Arguments and result are those of the reference."""
    return _mask_plan(
        given.position, given.key_position, given.lengths, given.keys, given.mask == "causal", given.window or 0,
        given.chunk or 0, given.by_keys,
    )  # fmt: skip


@called_with(MaskPlan)
def no_plan(given: MaskPlan) -> Tensor:
    """`[B, 0, RANGES]`, which nobody reads."""
    return given.position.new_empty((given.position.shape[0], 0, reference.RANGES), dtype=torch.int32)


def plan_blocks(
    position: Tensor, key_position: Tensor, plan: Tensor | None, *, causal: bool, window: int, chunk: int,
    by_keys: bool = False,
) -> Tensor:  # fmt: skip
    """The plan that a launch was given, or that of these positions; window and chunk 0 for none."""
    if plan is not None and plan.numel():
        return plan
    return _launch(position, key_position, None, "tokens", causal, window, chunk, by_keys)
