"""Attention of many queries in Triton: one pass over the keys with a running softmax (Dao 2023, algorithm 1).

The floor is 2 T S H (D + Dv) FLOPs over the pairs of blocks that see each other: what a causal mask or a window hides
is skipped by blocks (`triton_mask`), so causal costs half and a window O(T * window). Tensor cores bound it.
"""

# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.op import launchable
from ..gpu.sizes import ceil_div
from .dropout import dropped_below
from .triton_dropout import kept, kept_factor
from .triton_mask import planned, visible
from .triton_plan import plan_blocks
from .triton_scores import alibi_slope
from .triton_settings import (
    FORWARD,
    Operands,
    Settings,
    bias_strides,
    can_describe,
    power_below,
    provide_scratch,
    reach_of,
)
from .triton_terms import LOG2_E, scores
from .triton_tiles import load_rows, place, store_rows, unknown_zeros


@triton.jit
def _attend(
    b_acc, b_max, b_sum, b_q, b_query, o_query, begin, end, gap_at, gap,
    p_k, p_v, k_descriptor, v_descriptor, p_key, p_bias, p_distance, s_k, s_v, s_bias_query, s_bias_key,
    queries, keys, head_dim, v_head_dim, window, chunk, slope, scale, softcap, reach, seed, drop, i_batch, i_head,
    MASKED: tl.constexpr, CAUSAL: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_CHUNK: tl.constexpr,
    IS_PLAIN: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HAS_ALIBI: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_DISTANCE: tl.constexpr, HAS_DROPOUT: tl.constexpr, DESCRIBED: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, EVEN_D: tl.constexpr, EVEN_DV: tl.constexpr,
):  # fmt: skip
    """Adds the key blocks from begin to end, without the `gap` blocks from gap_at on, to the running softmax."""
    for i in range(begin, end - gap):
        i_key = (i + tl.where(i >= gap_at, gap, 0)) * BLOCK_N
        o_key = i_key + tl.arange(0, BLOCK_N)
        b_k = load_rows(p_k, k_descriptor, i_key, s_k, keys, head_dim, DESCRIBED, not MASKED, BLOCK_N, BLOCK_D, EVEN_D)
        b_score = tl.dot(b_q, tl.trans(b_k), input_precision="ieee")
        if MASKED or HAS_ALIBI or HAS_DISTANCE:
            b_key = tl.load(p_key + o_key, mask=o_key < keys, other=-1).to(tl.int32)[None, :]
        else:
            b_key = o_key[None, :]
        if IS_PLAIN:
            factor = scale * LOG2_E
        else:
            factor = 1.0
            m_pair = (o_query[:, None] < queries) & (o_key[None, :] < keys)
            b_score, _ = scores(
                b_score, b_query[:, None], b_key, o_query[:, None].to(tl.int64), o_key[None, :], m_pair, p_bias,
                p_distance, s_bias_query, s_bias_key, slope, scale, softcap, reach, HAS_SOFTCAP, HAS_ALIBI, HAS_BIAS,
                HAS_DISTANCE,
            )  # fmt: skip
        if MASKED:
            m_seen = visible(b_query[:, None], b_key, window, chunk, CAUSAL, HAS_WINDOW, HAS_CHUNK)
            b_score = tl.where(m_seen, b_score, -float("inf"))
        b_new = tl.maximum(b_max, tl.max(b_score, 1) * factor)
        b_from = tl.where(b_new == -float("inf"), 0.0, b_new) if MASKED else b_new
        b_weight = tl.exp2(b_score * factor - b_from[:, None])
        b_shrink = tl.exp2(b_max - b_from)
        b_sum = b_sum * b_shrink + tl.sum(b_weight, 1)
        if HAS_DROPOUT:
            m_kept = kept(seed, drop, i_batch, i_head, o_query[:, None], o_key[None, :])
            b_weight = tl.where(m_kept, b_weight, 0.0)
        b_v = load_rows(
            p_v, v_descriptor, i_key, s_v, keys, v_head_dim, DESCRIBED, not MASKED, BLOCK_N, BLOCK_DV, EVEN_DV
        )
        b_acc = tl.dot(b_weight.to(b_v.dtype), b_v, b_acc * b_shrink[:, None], input_precision="ieee")
        b_max = b_new
    return b_acc, b_max, b_sum


@triton.jit
def _forward(
    p_q, p_k, p_v, p_position, p_key, p_plan, p_bias, p_distance, p_sink, p_seed, p_out, p_lse,
    s_q_batch, s_q, s_k_batch, s_k_head, s_k, s_v_batch, s_v_head, s_v, s_position, s_key,
    s_bias_head, s_bias_query, s_bias_key,
    batch, heads, queries, keys, group, power, blocks, head_dim, v_head_dim, window, chunk, scale, softcap, reach,
    drop, at_once,
    CAUSAL: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_CHUNK: tl.constexpr, IS_PLAIN: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, HAS_ALIBI: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_DISTANCE: tl.constexpr,
    HAS_DROPOUT: tl.constexpr, HAS_SINK: tl.constexpr, DESCRIBED: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, EVEN_D: tl.constexpr,
    EVEN_DV: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head. `at_once` heads share the chip's cache; among them the last rows go first."""
    i_row, from_last = place(batch * heads, blocks, at_once)
    i_block = blocks - 1 - from_last
    i_batch, i_head = (i_row // heads).to(tl.int64), i_row % heads
    i_kv = i_head // group

    o_query = i_block * BLOCK_M + tl.arange(0, BLOCK_M)
    m_query = o_query < queries
    b_query = tl.load(p_position + i_batch * s_position + o_query, mask=m_query, other=-1).to(tl.int32)
    i_first = i_block * BLOCK_M
    b_q = load_rows(
        p_q + i_batch * s_q_batch + i_head * head_dim, p_q, i_first, s_q, queries, head_dim, False, False, BLOCK_M,
        BLOCK_D, EVEN_D,
    )  # fmt: skip
    p_k += i_batch * s_k_batch + i_kv.to(tl.int64) * s_k_head
    p_v += i_batch * s_v_batch + i_kv.to(tl.int64) * s_v_head
    k_descriptor, v_descriptor = p_k, p_v
    if DESCRIBED:
        k_descriptor = tl.make_tensor_descriptor(p_k, [keys, head_dim], [s_k, 1], [BLOCK_N, BLOCK_D])
        v_descriptor = tl.make_tensor_descriptor(p_v, [keys, v_head_dim], [s_v, 1], [BLOCK_N, BLOCK_DV])
    p_key += i_batch * s_key
    if HAS_BIAS:
        p_bias += i_head.to(tl.int64) * s_bias_head
    if HAS_DISTANCE:
        p_distance += i_head * (2 * reach + 1)
    slope = alibi_slope(i_head, power) if HAS_ALIBI else 0.0
    seed = tl.load(p_seed) if HAS_DROPOUT else 0

    begin, end, whole, stop = planned(p_plan, i_batch, i_block, queries, keys, True, BLOCK_M, BLOCK_N)
    b_acc = unknown_zeros(begin, BLOCK_M, BLOCK_DV)
    if HAS_SINK:
        b_max = tl.zeros((BLOCK_M,), tl.float32) + tl.load(p_sink + i_head).to(tl.float32) * LOG2_E
        b_sum = tl.full((BLOCK_M,), 1.0, tl.float32)
    else:
        b_max = tl.full((BLOCK_M,), -float("inf"), tl.float32)
        b_sum = tl.zeros((BLOCK_M,), tl.float32)
    b_acc, b_max, b_sum = _attend(
        b_acc, b_max, b_sum, b_q, b_query, o_query, whole, stop, stop, 0,
        p_k, p_v, k_descriptor, v_descriptor, p_key, p_bias, p_distance, s_k, s_v, s_bias_query, s_bias_key,
        queries, keys, head_dim, v_head_dim, window, chunk, slope, scale, softcap, reach, seed, drop, i_batch, i_head,
        False, CAUSAL, HAS_WINDOW, HAS_CHUNK, IS_PLAIN, HAS_SOFTCAP, HAS_ALIBI, HAS_BIAS,
        HAS_DISTANCE, HAS_DROPOUT, DESCRIBED, BLOCK_N, BLOCK_D, BLOCK_DV, EVEN_D, EVEN_DV,
    )  # fmt: skip
    b_acc, b_max, b_sum = _attend(
        b_acc, b_max, b_sum, b_q, b_query, o_query, begin, end, whole, stop - whole,
        p_k, p_v, k_descriptor, v_descriptor, p_key, p_bias, p_distance, s_k, s_v, s_bias_query, s_bias_key,
        queries, keys, head_dim, v_head_dim, window, chunk, slope, scale, softcap, reach, seed, drop, i_batch, i_head,
        True, CAUSAL, HAS_WINDOW, HAS_CHUNK, IS_PLAIN, HAS_SOFTCAP, HAS_ALIBI, HAS_BIAS,
        HAS_DISTANCE, HAS_DROPOUT, DESCRIBED, BLOCK_N, BLOCK_D, BLOCK_DV, EVEN_D, EVEN_DV,
    )  # fmt: skip

    if HAS_DROPOUT:
        b_acc = b_acc * kept_factor(drop)
    m_sees = (b_query >= 0) & (b_sum > 0.0)
    b_out = tl.where(m_sees[:, None], b_acc / tl.where(m_sees, b_sum, 1.0)[:, None], 0.0)
    b_lse = tl.where(m_sees, b_max + tl.log2(tl.where(m_sees, b_sum, 1.0)), -float("inf"))
    tl.store(p_lse + i_row.to(tl.int64) * queries + o_query, b_lse, mask=m_query)
    p_out += i_batch * queries * heads * v_head_dim + i_head * v_head_dim
    store_rows(p_out, b_out, i_first, heads * v_head_dim, queries, v_head_dim, BLOCK_M, BLOCK_DV)


def launch_forward(x: Operands, settings: Settings) -> tuple[Tensor, Tensor]:
    """q `[B, T, H*D]`, k `[B, Hkv, S, D]`, v `[B, Hkv, S, Dv]` of any strides but the last -> out and logsumexp.

    out `[B, T, H*Dv]`, logsumexp `[B, H, T]` float32 in units of ln 2, -inf where a query sees nothing.
    """
    q, k, v, position, key_position, bias, distance_bias, sink, seed = x.dense()[:9]
    batch, queries, keys = q.shape[0], q.shape[1], k.shape[2]
    heads = q.shape[2] // settings.head_dim
    out = q.new_empty((batch, queries, heads * settings.v_head_dim))
    lse = q.new_empty((batch, heads, queries), dtype=torch.float32)
    if not lse.numel() or not keys:
        return out.zero_(), lse.fill_(-torch.inf)
    flags = settings.flags(bias, distance_bias)
    config = dict(FORWARD.config(settings.key(q, keys, is_plain=bool(flags["IS_PLAIN"]) and seed is None)))
    described = bool(config.pop("DESCRIBED", 0)) and can_describe(k) and can_describe(v)
    if described:
        provide_scratch()
    blocks = ceil_div(queries, config["BLOCK_M"])
    plan = plan_blocks(position, key_position, x.plan, **settings.limits())
    launchable(_forward)[(blocks * batch * heads,)](
        q, k, v, position, key_position, plan, bias, distance_bias, sink, seed, out, lse,
        q.stride(0), q.stride(1), *k.stride()[:3], *v.stride()[:3], position.stride(0), key_position.stride(0),
        *bias_strides(bias), batch, heads, queries, keys, heads // k.shape[1], power_below(heads), blocks,
        settings.head_dim, settings.v_head_dim, settings.window, settings.chunk, settings.scale, settings.softcap,
        reach_of(distance_bias), dropped_below(settings.dropout), settings.at_once(k, heads),
        DESCRIBED=described, HAS_SINK=sink is not None, HAS_DROPOUT=seed is not None, **flags, **config,
    )  # fmt: skip
    return out, lse


TUNABLES = (FORWARD,)
