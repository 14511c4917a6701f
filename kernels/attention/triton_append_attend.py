"""`append_attend` for one token a row in Triton, in one launch: norms, rotation, the cache's append, attention.

A program takes one batch row, one key head with all its query heads, and every n-th block of keys, as `triton_shares`
does. The first share keeps the new key and value in registers, stores them, and starts its softmax with them; what the
cache held before is all that is read of it, so that no program waits for another's store. Positions follow from slots:
none are written. Where the keys are cut, the program that comes last joins the parts, in the order of the shares, so
that the result does not depend on who that was; a second launch does it where that is much work for one.

Floor: the bytes of the keys and values that are seen, over memory bandwidth.
"""

# pyright: basic
from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..cache.fields import KvState
from ..cache.triton_float8 import quantised
from ..gpu.arrivals import arrivals
from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..kernel import Request
from ..record import called_with
from ..rope.triton_heads import turn_heads
from . import reference
from .fields import AppendAttend
from .triton_combine import combine, shares_of
from .triton_scores import alibi_slope, join
from .triton_settings import Settings
from .triton_shares import SHARES
from .triton_terms import LOG2_E, scores

WIDEST_HEAD = 256
JOINED_BYTES = 128 * 1024
"""Of parts that one program joins; more are joined by a launch of their own, a program a head."""
JOINED_AT_ONCE = 8192
"""Elements of parts that a program holds."""


def serves(request: Request) -> str | None:
    """None, or the limit that the node is beyond."""
    if request.phase != "decode":
        return "it adds one token a row"
    if request.dtype == "float64":
        return "sums are float32"
    widths = (request.fields["key_dim"], request.fields["value_dim"])
    too_wide = next((width for width in widths if not isinstance(width, int) or width > WIDEST_HEAD), None)
    return None if too_wide is None else f"a head of {too_wide} is wider than {WIDEST_HEAD}"


@triton.jit
def _join_parts(
    p_part, p_lse, p_out, group, shares, i_first,
    V_HEAD_DIM: tl.constexpr, HEADS: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_S: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """`triton_combine` for the heads of a tile, from i_first on, by the program that finds all parts written."""
    o_head, o_share, o_v = tl.arange(0, HEADS), tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_V)
    m_head = i_first + o_head < group
    m_lse = m_head[:, None] & (o_share < shares)[None, :]
    p_rows = p_lse + o_head[:, None] * shares + o_share[None, :]
    b_lse = tl.load(p_rows, mask=m_lse, other=float("-inf"), cache_modifier=".cg")
    b_top = tl.max(b_lse, 1)
    b_top = tl.where(b_top == float("-inf"), 0.0, b_top)
    b_total = tl.sum(tl.exp2(b_lse - b_top[:, None]), 1)
    b_out = tl.zeros((HEADS, BLOCK_V), tl.float32)
    for start in range(0, shares, CHUNK):
        o_part = start + tl.arange(0, CHUNK)
        m_part = m_head[:, None] & (o_part < shares)[None, :]
        o_row = o_head[:, None] * shares + o_part[None, :]
        b_log = tl.load(p_lse + o_row, mask=m_part, other=float("-inf"), cache_modifier=".cg")
        m_rows = (b_log > float("-inf"))[:, :, None] & (o_v < V_HEAD_DIM)[None, None, :]
        p_parts = p_part + o_row[:, :, None] * V_HEAD_DIM + o_v[None, None, :]
        b_part = tl.load(p_parts, mask=m_rows, other=0.0, cache_modifier=".cg")
        b_out += tl.sum(b_part * tl.exp2(b_log - b_top[:, None])[:, :, None], 1)
    b_out = b_out / tl.where(b_total > 0.0, b_total, 1.0)[:, None]
    m_out = m_head[:, None] & (o_v < V_HEAD_DIM)[None, :]
    p_rows = p_out + o_head[:, None] * V_HEAD_DIM + o_v[None, :]
    tl.store(p_rows, b_out.to(p_out.dtype.element_ty), mask=m_out)


@triton.jit
def append_attend_kernel(
    p_q, p_k, p_v, p_table, p_q_weight, p_k_weight, p_keys, p_values, p_key_scale, p_value_scale, p_position,
    p_lengths, p_distance, p_sink, p_out, p_part, p_lse, p_arrived,
    group, slots, shares, eps, offset, scale, softcap, window, chunk, reach, power,
    stride_qb, stride_kb, stride_vb, stride_tb, stride_pb,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, ROTARY: tl.constexpr, IS_INTERLEAVED: tl.constexpr,
    HAS_NORM: tl.constexpr, HAS_OFFSET: tl.constexpr, IS_RING: tl.constexpr, HAS_WINDOW: tl.constexpr,
    HAS_CHUNK: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HAS_ALIBI: tl.constexpr, HAS_DISTANCE: tl.constexpr,
    HAS_SINK: tl.constexpr, HAS_SCALES: tl.constexpr, IS_WHOLE: tl.constexpr, IS_JOINED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, HEADS: tl.constexpr,
    BLOCK_S: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """One share of a tile of query heads of one key head. IS_WHOLE: there is one share; IS_JOINED: the last program
    joins them."""
    i_share, i_tile, i_batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    tiles = tl.cdiv(group, BLOCK_M)
    i_kv, i_first = (i_tile // tiles).to(tl.int64), i_tile % tiles * BLOCK_M
    kv_heads = tl.num_programs(1) // tiles
    o_m, o_d, o_v, o_n = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_V), tl.arange(0, BLOCK_N)
    m_row = i_first + o_m < group
    m_d, m_v = o_d < HEAD_DIM, o_v < V_HEAD_DIM
    i_head = i_kv * group + i_first
    position = tl.load(p_position + i_batch * stride_pb).to(tl.int32)
    p_table += i_batch * stride_tb

    o_q = (i_head + o_m)[:, None] * HEAD_DIM
    b_q = turn_heads(
        p_q + i_batch * stride_qb + o_q, p_table, p_q_weight, eps, offset, m_row, HEAD_DIM, ROTARY, IS_INTERLEAVED,
        HAS_NORM, HAS_OFFSET, BLOCK_D,
    )  # fmt: skip
    o_one = tl.zeros((1,), tl.int64)
    m_new = (o_one == 0) & (i_share == 0) & (position >= 0)
    o_k, o_value = (o_one + i_kv * HEAD_DIM)[:, None], (o_one + i_kv * V_HEAD_DIM)[:, None]
    b_k = turn_heads(
        p_k + i_batch * stride_kb + o_k, p_table, p_k_weight, eps, offset, m_new, HEAD_DIM, ROTARY, IS_INTERLEAVED,
        HAS_NORM, HAS_OFFSET, BLOCK_D,
    )  # fmt: skip
    b_v = tl.load(p_v + i_batch * stride_vb + o_value + o_v[None, :], mask=m_new[:, None] & m_v[None, :], other=0.0)

    slot, last = position, position
    if IS_RING:
        last = tl.maximum(tl.load(p_lengths + i_batch).to(tl.int32), position + 1) - 1
        slot = (position + slots) % slots
    o_cache = (i_batch * kv_heads + i_kv) * slots
    p_keys += o_cache * HEAD_DIM
    p_values += o_cache * V_HEAD_DIM
    m_stored = m_new & (slot < slots) & (i_first == 0)
    if IS_RING:
        m_stored = m_stored & (position > last - slots)
    if HAS_SCALES:
        p_key_scale += o_cache
        p_value_scale += o_cache
        b_k, b_k_scale = quantised(b_k)
        b_v, b_v_scale = quantised(b_v)
        tl.store(p_key_scale + slot + o_one, b_k_scale, mask=m_stored)
        tl.store(p_value_scale + slot + o_one, b_v_scale, mask=m_stored)
    b_k, b_v = b_k.to(p_keys.dtype.element_ty), b_v.to(p_values.dtype.element_ty)
    tl.store(p_keys + slot.to(tl.int64) * HEAD_DIM + o_d[None, :], b_k, mask=m_stored[:, None] & m_d[None, :])
    tl.store(p_values + slot.to(tl.int64) * V_HEAD_DIM + o_v[None, :], b_v, mask=m_stored[:, None] & m_v[None, :])

    b_k, b_v = b_k.to(tl.float32), b_v.to(tl.float32)
    if HAS_SCALES:
        b_k, b_v = b_k * b_k_scale[:, None], b_v * b_v_scale[:, None]

    first = 0
    if HAS_WINDOW:
        first = tl.maximum(position - window + 1, 0)
    if HAS_CHUNK:
        first = tl.maximum(first, position // chunk * chunk)
    if IS_RING:
        low, high = 0, tl.cdiv(tl.minimum(last + 1, slots), BLOCK_N)
    else:
        low, high = first // BLOCK_N, tl.cdiv(tl.minimum(position, slots), BLOCK_N)
    high = tl.where(position < 0, 0, high)
    low = tl.maximum(low - i_share + shares - 1, 0) // shares
    high = tl.maximum(high - i_share + shares - 1, 0) // shares

    slope, p_near = 0.0, p_distance
    if HAS_ALIBI:
        slope = alibi_slope((i_head + o_m).to(tl.int32), power)[:, None]
    if HAS_DISTANCE:
        p_near = p_distance + tl.where(m_row, i_head + o_m, 0)[:, None] * (2 * reach + 1)
    b_own = tl.sum(b_q.to(tl.float32) * b_k, 1)[:, None]
    b_own, _b_own_bent = scores(
        b_own, position, position, 0, 0, True, p_q, p_near, 0, 0, slope, scale, softcap, reach, HAS_SOFTCAP, HAS_ALIBI,
        False, HAS_DISTANCE,
    )  # fmt: skip
    m_own = m_row & (i_share == 0) & (position >= 0)
    b_own = tl.sum(b_own, 1)
    b_top = tl.where(m_own, b_own, float("-inf"))
    b_sum = tl.where(m_own, 1.0, 0.0)
    b_out = b_sum[:, None] * b_v
    if HAS_SINK:
        b_sink = tl.load(p_sink + i_head + o_m, mask=m_own, other=float("-inf")).to(tl.float32) * LOG2_E
        b_new = tl.maximum(b_top, b_sink)
        b_base = tl.where(m_own, b_new, 0.0)
        b_out *= tl.exp2(b_top - b_base)[:, None]
        b_sum = tl.exp2(b_top - b_base) + tl.exp2(b_sink - b_base)
        b_top = b_new

    for i_block in range(low, high):
        o_slot = (i_block * shares + i_share) * BLOCK_N + o_n
        b_at = o_slot
        if IS_RING:
            b_at = last - (last - o_slot + slots) % slots
        m_seen = (o_slot < slots) & (b_at >= first) & (b_at < position)
        p_rows = p_keys + o_slot.to(tl.int64)[:, None] * HEAD_DIM + o_d[None, :]
        b_key = tl.load(p_rows, mask=m_seen[:, None] & m_d[None, :], other=0.0)
        b_score = tl.dot(b_q, tl.trans(b_key.to(b_q.dtype)), input_precision="ieee")
        if HAS_SCALES:
            b_score *= tl.load(p_key_scale + o_slot, mask=m_seen, other=0.0)[None, :]
        b_score, _b_bent = scores(
            b_score, position, b_at[None, :], 0, 0, True, p_q, p_near, 0, 0, slope, scale, softcap, reach, HAS_SOFTCAP,
            HAS_ALIBI, False, HAS_DISTANCE,
        )  # fmt: skip
        p_rows = p_values + o_slot.to(tl.int64)[:, None] * V_HEAD_DIM + o_v[None, :]
        b_value = tl.load(p_rows, mask=m_seen[:, None] & m_v[None, :], other=0.0)
        if HAS_SCALES:
            b_value = b_value.to(tl.float32) * tl.load(p_value_scale + o_slot, mask=m_seen, other=0.0)[:, None]
        b_score = tl.where(m_seen[None, :], b_score, float("-inf"))
        b_out, b_top, b_sum = join(b_out, b_top, b_sum, b_score, b_value.to(b_q.dtype))

    b_out = b_out / tl.where(b_sum > 0.0, b_sum, 1.0)[:, None]
    o_row = i_batch * kv_heads * group + i_head
    p_out += o_row * V_HEAD_DIM
    if IS_WHOLE:
        p_rows = p_out + o_m[:, None] * V_HEAD_DIM + o_v[None, :]
        tl.store(p_rows, b_out.to(p_out.dtype.element_ty), mask=m_row[:, None] & m_v[None, :])
    else:
        p_part += o_row * shares * V_HEAD_DIM
        p_lse += o_row * shares
        o_part = o_m * shares + i_share
        tl.store(p_lse + o_part, b_top + tl.log2(tl.where(b_sum > 0.0, b_sum, 1.0)), mask=m_row)
        m_part = (m_row & (b_sum > 0.0))[:, None] & m_v[None, :]
        tl.store(p_part + o_part[:, None] * V_HEAD_DIM + o_v[None, :], b_out, mask=m_part)
        if IS_JOINED:
            p_arrived += i_batch * tl.num_programs(1) + i_tile
            tl.debug_barrier()
            arrived = tl.atomic_add(p_arrived, 1, sem="acq_rel")
            if arrived == shares - 1:
                tl.store(p_arrived, 0)
                _join_parts(p_part, p_lse, p_out, group, shares, i_first, V_HEAD_DIM, HEADS, BLOCK_V, BLOCK_S, CHUNK)


class Operands(NamedTuple):
    """The tensors of a step, as an operator of torch takes them."""

    q: Tensor
    k: Tensor
    v: Tensor
    table: Tensor | None
    q_weight: Tensor | None
    k_weight: Tensor | None
    keys: Tensor
    values: Tensor
    key_scale: Tensor | None
    value_scale: Tensor | None
    position: Tensor
    lengths: Tensor
    distance_bias: Tensor | None
    sink: Tensor | None
    arrived: Tensor


class Append(NamedTuple):
    """What happens to a new token before it is attended to."""

    is_ring: bool
    rotary_dim: int
    is_interleaved: bool
    eps: float
    offset: float


def _launch(x: Operands, append: Append, settings: Settings) -> Tensor:
    q, k, v, table, q_weight, k_weight, keys, values, key_scale, value_scale = x[:10]
    position, lengths, distance_bias, sink, arrived = x[10:]
    window, chunk, softcap = settings.window, settings.chunk, settings.softcap
    if not (keys.is_contiguous() and values.is_contiguous()):
        raise ValueError("the buffers of a cache are contiguous")
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    (batch, kv_heads, slots, head_dim), width = keys.shape, values.shape[-1]
    heads = q.shape[-1] // head_dim
    group = heads // kv_heads
    out = q.new_empty((batch, 1, heads * width))
    if not out.numel():
        return out
    key = {"key_dim": head_dim, "value_dim": width, "itemsize": keys.itemsize, "rows": min(64, power_of_2(group))}
    config = dict(SHARES.config(key))
    block, per_multiprocessor = config.pop("BLOCK_N"), config.pop("PROGRAMS")
    block_m = max(16, min(64, power_of_2(group)))
    tiles = kv_heads * ceil_div(group, block_m)
    shares = shares_of(ceil_div(slots, block), batch * tiles, per_multiprocessor, q.device.index)
    joined = min(block_m, group) * shares * width * 4 <= JOINED_BYTES
    lse = part = None
    if shares > 1:
        part = q.new_empty((batch, heads, 1, shares, width), dtype=torch.float32)
        lse = q.new_empty((batch, heads, 1, shares), dtype=torch.float32)
    joined_heads, block_v = min(block_m, power_of_2(group)), max(16, power_of_2(width))
    launchable(append_attend_kernel)[(shares, tiles, batch)](
        q, k, v, q if table is None else table, q_weight, k_weight, keys, values, key_scale, value_scale, position,
        lengths.contiguous(), None if distance_bias is None else distance_bias.contiguous(),
        None if sink is None else sink.contiguous(), out, part, lse, arrived,
        group, slots, shares, append.eps, append.offset, settings.scale, softcap, window, chunk,
        0 if distance_bias is None else distance_bias.shape[1] // 2, 1 << (heads.bit_length() - 1),
        q.stride(0), k.stride(0), v.stride(0), 0 if table is None else table.stride(0), position.stride(0),
        HEAD_DIM=head_dim, V_HEAD_DIM=width, ROTARY=0 if table is None else append.rotary_dim,
        IS_INTERLEAVED=append.is_interleaved, HAS_NORM=q_weight is not None, HAS_OFFSET=append.offset != 0.0,
        IS_RING=append.is_ring, HAS_WINDOW=window > 0, HAS_CHUNK=chunk > 0, HAS_SOFTCAP=softcap > 0,
        HAS_ALIBI=settings.alibi, HAS_DISTANCE=distance_bias is not None, HAS_SINK=sink is not None,
        HAS_SCALES=key_scale is not None, IS_WHOLE=shares == 1, IS_JOINED=joined,
        BLOCK_M=block_m, BLOCK_N=block, BLOCK_D=max(16, power_of_2(head_dim)), BLOCK_V=block_v, HEADS=joined_heads,
        BLOCK_S=power_of_2(shares), CHUNK=max(1, min(power_of_2(shares), JOINED_AT_ONCE // (joined_heads * block_v))),
        **config,
    )  # fmt: skip
    if part is not None and lse is not None and not joined:
        combine(part, lse, out, heads)
    return out


def _fake(x: Operands, append: Append, settings: Settings) -> Tensor:
    return x.q.new_empty((x.q.shape[0], 1, x.q.shape[-1] // settings.head_dim * settings.v_head_dim))


def _reference(x: Operands, append: Append, settings: Settings) -> Tensor:
    scales = () if x.key_scale is None or x.value_scale is None else (x.key_scale, x.value_scale)
    said = settings.fields()
    scores = {name: said[name] for name in ("window", "chunk", "scale", "softcap", "alibi")}
    return reference.append_attend(
        state=(x.keys, x.values, *scales),
        q=x.q, k=x.k, v=x.v, position=x.position, lengths=x.lengths, heads=x.keys.shape[1], key_dim=settings.head_dim,
        value_dim=settings.v_head_dim, ring=(settings.window or settings.chunk) if append.is_ring else None,
        table=x.table, rotary_dim=append.rotary_dim, layout="interleaved" if append.is_interleaved else "half",
        q_norm_weight=x.q_weight, k_norm_weight=x.k_weight, norm_eps=append.eps, norm_offset=append.offset,
        distance_bias=x.distance_bias, sink=x.sink, is_static=True, **scores,
    )[0]  # fmt: skip


_append_attend = gpu_op(
    "append_attend",
    _launch,
    fake=_fake,
    reference=_reference,
    mutates_args=("keys", "values", "key_scale", "value_scale", "arrived"),
)


@called_with(AppendAttend)
def append_attend(given: AppendAttend) -> tuple[Tensor, KvState]:
    """Arguments and result are those of the reference with `is_static`, for one token a row, else ValueError."""
    keys, values, *scales = given.state
    key_scale, value_scale = scales or (None, None)
    if given.position.shape[1] != 1:
        raise ValueError(f"one token a row is added, not {given.position.shape[1]}")
    arrived = arrivals(keys, given.q.shape[0] * (given.q.shape[-1] // given.key_dim))
    operands = Operands(
        given.q, given.k, given.v, given.table, given.q_norm_weight, given.k_norm_weight, keys, values, key_scale,
        value_scale, given.position, given.lengths, given.distance_bias, given.sink, arrived,
    )  # fmt: skip
    append = Append(
        given.ring is not None, given.rotary_dim or given.key_dim, given.layout == "interleaved", given.norm_eps,
        given.norm_offset,
    )  # fmt: skip
    out = _append_attend(*operands, *append, *Settings.of(given, given.key_dim, given.value_dim))
    return out, given.state
