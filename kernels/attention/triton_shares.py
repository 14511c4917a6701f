"""Attention of few queries over many keys in Triton, the keys of a cache cut into shares: all a decode step needs.

A program takes one batch row, one key head with all its query heads (rows of one tile, padded to 16 for `tl.dot`), and
every n-th block of keys, so that the filled part of a cache is spread evenly however full it is. It first looks through
the positions of its keys, and then runs, in a pipelined loop, from the first block that any of its queries sees to the
last: the empty part of a cache costs 8 bytes a key and head. Nothing is read on the host, and nothing depends on how
many tokens the cache holds.
"""

# pyright: basic
from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.op import launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..gpu.target import launch_target
from ..gpu.tuning import Config, Key, Tunable
from .triton_combine import combine, shares_of
from .triton_scores import alibi_slope, bent, join, seen_range
from .triton_settings import Settings

KIB = 1024
LOG2_E = tl.constexpr(1.4426950408889634)
SCAN = 2048
"""Positions that are looked through at once."""


@triton.jit
def seen_blocks(
    p_at, stride_as, slots, shares, i_share, first, end, BLOCK_N: tl.constexpr, SCAN_BLOCKS: tl.constexpr
):  # fmt: skip
    """Of this share's blocks, the first in which a key's position is in `[first, end)`, and one past the last."""
    count = tl.cdiv(tl.cdiv(slots, BLOCK_N), shares)
    low, high = count, 0
    for start in range(0, count, SCAN_BLOCKS):
        o_block = start + tl.arange(0, SCAN_BLOCKS)[:, None]
        o_slot = (o_block * shares + i_share) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        b_at = tl.load(p_at + o_slot * stride_as, mask=o_slot < slots, other=-1)
        m_seen = (b_at >= first) & (b_at < end) & (b_at >= 0)
        low = tl.minimum(low, tl.min(tl.where(m_seen, o_block, count)))
        high = tl.maximum(high, tl.max(tl.where(m_seen, o_block + 1, 0)))
    return low, high


@triton.jit
def share_kernel(
    p_q, p_keys, p_values, p_at, p_lengths, p_position, p_bias, p_distance, p_sink, p_key_scale, p_value_scale,
    p_out, p_lse, tokens, group, slots, shares, scale, softcap, window, chunk, reach, power,
    stride_qb, stride_qt, stride_kb, stride_kh, stride_ks, stride_vb, stride_vh, stride_vs, stride_ab, stride_as,
    stride_pb, stride_pt, stride_bh, stride_bt, stride_bs, stride_scale,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, IS_CAUSAL: tl.constexpr, HAS_WINDOW: tl.constexpr,
    HAS_CHUNK: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HAS_ALIBI: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_DISTANCE: tl.constexpr, HAS_SINK: tl.constexpr, HAS_SCALES: tl.constexpr, IS_WHOLE: tl.constexpr,
    PAGE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
    SCAN_BLOCKS: tl.constexpr,
):  # fmt: skip
    """One share of one key head. Rows are (head of the group, token). PAGE: slots of a page, a
    multiple of BLOCK_N; 0 where there are none."""
    i_share, i_tile, i_batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    tiles = tl.cdiv(group * tokens, BLOCK_M)
    i_kv = (i_tile // tiles).to(tl.int64)
    o_row = (i_tile % tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    m_row = o_row < group * tokens
    o_token = o_row % tokens
    o_head = i_kv * group + o_row // tokens
    heads = tl.num_programs(1) // tiles * group
    o_d, o_v, o_n = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_V), tl.arange(0, BLOCK_N)
    m_d, m_v = o_d < HEAD_DIM, o_v < V_HEAD_DIM

    p_position += i_batch * stride_pb
    b_position = tl.load(p_position + o_token * stride_pt, mask=m_row, other=-1).to(tl.int32)
    b_first, b_end = seen_range(b_position, window, chunk, IS_CAUSAL, HAS_WINDOW, HAS_CHUNK)
    first, end = tl.min(b_first, 0), tl.max(b_end, 0)
    p_at += i_batch * stride_ab
    if PAGE:
        slots = tl.load(p_lengths + i_batch).to(tl.int32)
        end = tl.minimum(end, slots)
        low = tl.maximum(first // BLOCK_N - i_share + shares - 1, 0) // shares
        high = tl.maximum(tl.cdiv(end, BLOCK_N) - i_share + shares - 1, 0) // shares
    else:
        low, high = seen_blocks(p_at, stride_as, slots, shares, i_share, first, end, BLOCK_N, SCAN_BLOCKS)

    p_rows = p_q + i_batch * stride_qb + o_token[:, None] * stride_qt + o_head[:, None] * HEAD_DIM + o_d[None, :]
    b_q = tl.load(p_rows, mask=m_row[:, None] & m_d[None, :], other=0.0)
    value_scale = 1.0
    if HAS_SCALES:
        scale *= tl.load(p_key_scale + i_kv * stride_scale)
        value_scale = tl.load(p_value_scale + i_kv * stride_scale)
    if HAS_ALIBI:
        b_slope = alibi_slope(o_head, power)
    b_top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    b_sum = tl.zeros((BLOCK_M,), tl.float32)
    if HAS_SINK:
        m_sink = m_row & (i_share == 0)
        b_sink = tl.load(p_sink + o_head, mask=m_sink, other=float("-inf")).to(tl.float32)
        b_top = b_sink * LOG2_E
        b_sum = tl.where(m_sink, 1.0, 0.0)
    b_out = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    p_keys += i_kv * stride_kh
    p_values += i_kv * stride_vh
    if not PAGE:
        p_keys += i_batch * stride_kb
        p_values += i_batch * stride_vb

    i_page = tl.full((), 0, tl.int64)
    if PAGE:
        i_first = (low * shares + i_share) * BLOCK_N // PAGE
        i_page = tl.load(p_at + i_first * stride_as, mask=low < high, other=0).to(tl.int64)
    for i_block in range(low, high):
        o_slot = (i_block * shares + i_share) * BLOCK_N + o_n
        m_slot = o_slot < slots
        if PAGE:
            b_at = tl.where(m_slot, o_slot, -1)
            start = (i_block * shares + i_share) * BLOCK_N % PAGE
            o_key = i_page * stride_kb + (start + o_n).to(tl.int64) * stride_ks
            o_value = i_page * stride_vb + (start + o_n).to(tl.int64) * stride_vs
            i_next = ((i_block + 1) * shares + i_share) * BLOCK_N // PAGE
            i_page = tl.load(p_at + i_next * stride_as, mask=i_block + 1 < high, other=0).to(tl.int64)
        else:
            b_at = tl.load(p_at + o_slot * stride_as, mask=m_slot, other=-1).to(tl.int32)
            o_key = o_slot.to(tl.int64) * stride_ks
            o_value = o_slot.to(tl.int64) * stride_vs
        b_key = tl.load(p_keys + o_key[:, None] + o_d[None, :], mask=m_slot[:, None] & m_d[None, :], other=0.0)
        b_score = tl.dot(b_q, tl.trans(b_key.to(b_q.dtype)), input_precision="ieee") * scale
        if HAS_SOFTCAP:
            b_score = bent(b_score, softcap)
        b_distance = b_at[None, :] - b_position[:, None]
        if HAS_ALIBI:
            b_score -= b_slope[:, None] * tl.abs(b_distance).to(tl.float32)
        m_seen = (b_at[None, :] >= b_first[:, None]) & (b_at[None, :] < b_end[:, None]) & (b_at >= 0)[None, :]
        if HAS_BIAS:
            p_bias_rows = p_bias + o_head[:, None] * stride_bh + o_token[:, None] * stride_bt
            m_bias = m_row[:, None] & m_slot[None, :]
            b_score += tl.load(p_bias_rows + o_slot[None, :] * stride_bs, mask=m_bias, other=0.0).to(tl.float32)
        if HAS_DISTANCE:
            o_distance = tl.minimum(tl.maximum(b_distance, -reach), reach) + reach
            p_near = p_distance + o_head[:, None] * (2 * reach + 1) + o_distance
            b_score += tl.load(p_near, mask=m_seen, other=0.0).to(tl.float32)
        b_score = tl.where(m_seen, b_score * LOG2_E, float("-inf"))
        p_block = p_values + o_value[:, None] + o_v[None, :]
        b_value = tl.load(p_block, mask=m_slot[:, None] & m_v[None, :], other=0.0).to(b_q.dtype)
        b_out, b_top, b_sum = join(b_out, b_top, b_sum, b_score, b_value)

    b_out = b_out * (value_scale / tl.where(b_sum > 0.0, b_sum, 1.0))[:, None]
    if IS_WHOLE:
        o_out = ((i_batch * tokens + o_token) * heads + o_head) * V_HEAD_DIM
        m_out = m_row
    else:
        o_part = ((i_batch * heads + o_head) * tokens + o_token) * shares + i_share
        tl.store(p_lse + o_part, b_top + tl.log2(tl.where(b_sum > 0.0, b_sum, 1.0)), mask=m_row)
        o_out = o_part * V_HEAD_DIM
        m_out = m_row & (b_sum > 0.0)
    p_rows = p_out + o_out[:, None] + o_v[None, :]
    tl.store(p_rows, b_out.to(p_out.dtype.element_ty), mask=m_out[:, None] & m_v[None, :])


def _rule(key: Key) -> Config:
    """A stage of keys and values of 32 KiB, so that two programs of three stages share a multiprocessor of sm_90."""
    bytes_a_key = (int(key["key_dim"]) + int(key["value_dim"])) * int(key["itemsize"])
    is_small = launch_target().shared_memory < 160 * KIB
    block = (16 if is_small else 32) * KIB // bytes_a_key
    return {"BLOCK_N": max(16, min(128, power_of_2(block + 1) // 2)), "num_warps": 4, "num_stages": 3, "PROGRAMS": 2}


def _space(key: Key) -> tuple[Config, ...]:
    """What tuning tries: blocks, warps, stages and programs a multiprocessor."""
    rule = _rule(key)
    return (
        rule,
        *(
            {"BLOCK_N": block, "num_warps": warps, "num_stages": stages, "PROGRAMS": programs}
            for block in (rule["BLOCK_N"] // 2, rule["BLOCK_N"], rule["BLOCK_N"] * 2)
            for warps in (4, 8)
            for stages in (2, 3, 4)
            for programs in (1, 2, 3)
            if block >= 16
        ),
    )


SHARES = Tunable(name="attend_shares", rule=_rule, space=_space)


class Operands(NamedTuple):
    """The tensors of attention over few queries, as operators of torch take them."""

    q: Tensor
    keys: Tensor
    """`[B, Hkv, S, D]`; with lengths, pages `[pages, Hkv, slots, D]`."""
    values: Tensor
    at: Tensor
    """The positions of the keys `[B, S]`; with lengths, the page of each run of `slots` positions `[B, n]`."""
    lengths: Tensor | None
    position: Tensor
    bias: Tensor | None
    distance_bias: Tensor | None
    sink: Tensor | None
    key_scale: Tensor | None
    value_scale: Tensor | None


def shape_of(x: Operands, settings: Settings) -> Tensor:
    """What `launch` gives, without its numbers."""
    return x.q.new_empty((*x.position.shape, x.q.shape[-1] // settings.head_dim * settings.v_head_dim))


def launch(x: Operands, settings: Settings) -> Tensor:
    """`[B, T, H*Dv]` of q's dtype."""
    q, keys, values = (one if one.stride(-1) == 1 else one.contiguous() for one in x[:3])
    at, lengths, position, bias, distance_bias, sink, key_scale, value_scale = x[3:]
    lengths = None if lengths is None else lengths.contiguous()
    head_dim, window, chunk, softcap = settings.head_dim, settings.window, settings.chunk, settings.softcap
    (batch, tokens), page = position.shape, 0 if lengths is None else keys.shape[2]
    kv_heads, width = keys.shape[1], values.shape[-1]
    heads = q.shape[-1] // head_dim
    out = q.new_empty((batch, tokens, heads * width))
    slots = at.shape[1] * max(page, 1)
    if not out.numel():
        return out
    if not keys.numel():
        return out.zero_()
    rows = heads // kv_heads * tokens
    key = {"key_dim": head_dim, "value_dim": width, "itemsize": keys.itemsize, "rows": min(64, power_of_2(rows))}
    config = dict(SHARES.config(key))
    block, per_multiprocessor = config.pop("BLOCK_N"), config.pop("PROGRAMS")
    block = min(block, page) if page else block
    block_m = max(16, min(64, power_of_2(rows)))
    programs = batch * kv_heads * ceil_div(rows, block_m)
    shares = shares_of(ceil_div(slots, block), programs, per_multiprocessor, q.device.index)
    lse = part = None
    if shares > 1:
        part = q.new_empty((batch, heads, tokens, shares, width), dtype=torch.float32)
        lse = q.new_empty((batch, heads, tokens, shares), dtype=torch.float32)
    bias_strides = (0, 0, 0) if bias is None else (bias.stride(0) * (len(bias) > 1), bias.stride(1), bias.stride(2))
    launchable(share_kernel)[(shares, programs // batch, batch)](
        q, keys, values, at, lengths, position, bias,
        None if distance_bias is None else distance_bias.contiguous(),
        None if sink is None else sink.contiguous(), key_scale, value_scale, out if part is None else part, lse,
        tokens, heads // kv_heads, slots, shares, settings.scale, softcap, window, chunk,
        0 if distance_bias is None else distance_bias.shape[1] // 2, 1 << (heads.bit_length() - 1),
        q.stride(0), q.stride(1), *keys.stride()[:3], *values.stride()[:3], *at.stride(), *position.stride(),
        *bias_strides, 0 if key_scale is None or key_scale.numel() == 1 else 1,
        HEAD_DIM=head_dim, V_HEAD_DIM=width, IS_CAUSAL=settings.causal, HAS_WINDOW=window > 0, HAS_CHUNK=chunk > 0,
        HAS_SOFTCAP=softcap > 0, HAS_ALIBI=settings.alibi, HAS_BIAS=bias is not None,
        HAS_DISTANCE=distance_bias is not None, HAS_SINK=sink is not None, HAS_SCALES=key_scale is not None,
        IS_WHOLE=part is None, PAGE=page,
        BLOCK_M=block_m, BLOCK_N=block, BLOCK_D=max(16, power_of_2(head_dim)), BLOCK_V=max(16, power_of_2(width)),
        SCAN_BLOCKS=max(1, min(SCAN // block, power_of_2(ceil_div(ceil_div(slots, block), shares)))), **config,
    )  # fmt: skip
    if part is not None and lse is not None:
        combine(part, lse, out, heads)
    return out
