"""The gradient of attention in Triton, without atomics: one kernel for queries, one for keys and values (Dao 2023).

Both compute the scores again from the logsumexp, 7 products a pair of blocks instead of 5, so that every sum has one
order. Tensor cores bound it; the floor is 2.5 times that of the forward pass. Keys and values that a group of query
heads shares are summed over the group by one program.
"""

# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
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
from .triton_settings import BACKWARD_KEYS, BACKWARD_QUERIES, Operands, Settings, bias_strides, power_below, reach_of
from .triton_terms import LOG2_E, scores
from .triton_tiles import load_rows, place, store_rows, unknown_zeros


@triton.jit
def _delta(
    p_out, p_grad, s_grad_batch, s_grad, p_delta, queries, heads, v_head_dim,
    BLOCK_M: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """What the softmax takes from each gradient of a weight: out * grad, summed over a head. Bound by memory."""
    i_block, i_row = tl.program_id(0), tl.program_id(1)
    i_batch, i_head = (i_row // heads).to(tl.int64), i_row % heads
    o_query = i_block * BLOCK_M + tl.arange(0, BLOCK_M)
    i_first, width = i_block * BLOCK_M, heads * v_head_dim
    p_out += i_batch * queries * width + i_head * v_head_dim
    p_grad += i_batch * s_grad_batch + i_head * v_head_dim
    b_out = load_rows(
        p_out, p_out, i_first, width, queries, v_head_dim, False, False, BLOCK_M, BLOCK_DV, False
    )  # fmt: skip
    b_grad = load_rows(
        p_grad, p_grad, i_first, s_grad, queries, v_head_dim, False, False, BLOCK_M, BLOCK_DV, False
    )  # fmt: skip
    b_delta = tl.sum(b_out.to(tl.float32) * b_grad.to(tl.float32), 1)
    tl.store(p_delta + i_row.to(tl.int64) * queries + o_query, b_delta, mask=o_query < queries)


@triton.jit
def gradients(
    b_product, b_weighted, b_query, b_key, o_query, o_key, b_lse, b_delta, p_bias, p_distance, s_bias_query, s_bias_key,
    queries, keys, window, chunk, slope, scale, softcap, reach, seed, drop, i_batch, i_head,
    MASKED: tl.constexpr, CAUSAL: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_CHUNK: tl.constexpr,
    IS_PLAIN: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HAS_ALIBI: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_DISTANCE: tl.constexpr, HAS_DROPOUT: tl.constexpr,
):  # fmt: skip
    """Of products q k and grad v: the weights that values were read by, the gradient of the scores as the softmax takes
    them, and that of the products but for `scale`; tiles either way."""
    if IS_PLAIN:
        b_weight = tl.exp2(b_product * (scale * LOG2_E) - b_lse)
        b_bent = b_product
    else:
        m_pair = (o_query < queries) & (o_key < keys)
        b_score, b_bent = scores(
            b_product, b_query, b_key, o_query.to(tl.int64), o_key, m_pair, p_bias, p_distance, s_bias_query,
            s_bias_key, slope, scale, softcap, reach, HAS_SOFTCAP, HAS_ALIBI, HAS_BIAS, HAS_DISTANCE,
        )  # fmt: skip
        b_weight = tl.exp2(b_score - b_lse)
    if MASKED:
        m_seen = visible(b_query, b_key, window, chunk, CAUSAL, HAS_WINDOW, HAS_CHUNK)
        b_weight = tl.where(m_seen, b_weight, 0.0)
    b_read = b_weight
    if HAS_DROPOUT:
        m_kept = kept(seed, drop, i_batch, i_head, o_query, o_key)
        b_read = tl.where(m_kept, b_weight * kept_factor(drop), 0.0)
        b_weighted = tl.where(m_kept, b_weighted * kept_factor(drop), 0.0)
    b_added = b_weight * (b_weighted - b_delta)
    b_slope = b_added
    if HAS_SOFTCAP:
        b_ratio = b_bent / softcap
        b_slope = b_slope * (1 - b_ratio * b_ratio)
    return b_read, b_added, b_slope


@triton.jit
def load_lse(p_lse, o_query, queries):
    """Infinite where a query sees nothing or is none, so that all its weights are zero."""
    b_lse = tl.load(p_lse + o_query, mask=o_query < queries, other=-float("inf"))
    return tl.where(b_lse == -float("inf"), float("inf"), b_lse)


@triton.jit
def _add_keys(
    b_acc, b_q, b_grad, b_lse, b_delta, b_query, o_query, begin, end, gap_at, gap, p_k, p_v, p_key, p_bias, p_distance,
    s_k, s_v, s_bias_query, s_bias_key, queries, keys, head_dim, v_head_dim, window, chunk, slope, scale, softcap,
    reach, seed, drop, i_batch, i_head,
    MASKED: tl.constexpr, CAUSAL: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_CHUNK: tl.constexpr,
    IS_PLAIN: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HAS_ALIBI: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_DISTANCE: tl.constexpr, HAS_DROPOUT: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, EVEN_D: tl.constexpr, EVEN_DV: tl.constexpr,
):  # fmt: skip
    """To the gradient of a block of queries, what the key blocks from begin to end add, without the gap."""
    for i in range(begin, end - gap):
        i_key = (i + tl.where(i >= gap_at, gap, 0)) * BLOCK_N
        o_key = i_key + tl.arange(0, BLOCK_N)
        b_key = tl.load(p_key + o_key, mask=o_key < keys, other=-1).to(tl.int32)
        b_k = load_rows(p_k, p_k, i_key, s_k, keys, head_dim, False, not MASKED, BLOCK_N, BLOCK_D, EVEN_D)
        b_v = load_rows(p_v, p_v, i_key, s_v, keys, v_head_dim, False, not MASKED, BLOCK_N, BLOCK_DV, EVEN_DV)
        b_product = tl.dot(b_q, tl.trans(b_k), input_precision="ieee")
        b_weighted = tl.dot(b_grad, tl.trans(b_v), input_precision="ieee")
        _, _, b_slope = gradients(
            b_product, b_weighted, b_query[:, None], b_key[None, :], o_query[:, None], o_key[None, :], b_lse[:, None],
            b_delta[:, None], p_bias, p_distance, s_bias_query, s_bias_key, queries, keys, window, chunk, slope, scale,
            softcap, reach, seed, drop, i_batch, i_head, MASKED, CAUSAL, HAS_WINDOW, HAS_CHUNK, IS_PLAIN, HAS_SOFTCAP,
            HAS_ALIBI, HAS_BIAS, HAS_DISTANCE, HAS_DROPOUT,
        )  # fmt: skip
        b_acc = tl.dot(b_slope.to(b_k.dtype), b_k, b_acc, input_precision="ieee")
    return b_acc


@triton.jit
def _queries(
    p_q, p_k, p_v, p_position, p_key, p_plan, p_bias, p_distance, p_seed, p_grad, p_lse, p_delta, p_grad_q,
    s_q_batch, s_q, s_k_batch, s_k_head, s_k, s_v_batch, s_v_head, s_v, s_position, s_key,
    s_bias_head, s_bias_query, s_bias_key, s_grad_batch, s_grad,
    batch, heads, queries, keys, group, power, blocks, head_dim, v_head_dim, window, chunk, scale, softcap, reach,
    drop, at_once,
    CAUSAL: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_CHUNK: tl.constexpr, IS_PLAIN: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, HAS_ALIBI: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_DISTANCE: tl.constexpr,
    HAS_DROPOUT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    EVEN_D: tl.constexpr, EVEN_DV: tl.constexpr,
):  # fmt: skip
    """The gradient of one block of queries of one head."""
    i_row, from_last = place(batch * heads, blocks, at_once)
    i_block = blocks - 1 - from_last
    i_batch, i_head = (i_row // heads).to(tl.int64), i_row % heads
    i_kv, i_first = i_head // group, i_block * BLOCK_M
    o_query = i_first + tl.arange(0, BLOCK_M)
    b_query = tl.load(p_position + i_batch * s_position + o_query, mask=o_query < queries, other=-1).to(tl.int32)
    p_q += i_batch * s_q_batch + i_head * head_dim
    p_grad += i_batch * s_grad_batch + i_head * v_head_dim
    b_q = load_rows(p_q, p_q, i_first, s_q, queries, head_dim, False, False, BLOCK_M, BLOCK_D, EVEN_D)
    b_grad = load_rows(p_grad, p_grad, i_first, s_grad, queries, v_head_dim, False, False, BLOCK_M, BLOCK_DV, EVEN_DV)
    b_lse = load_lse(p_lse + i_row.to(tl.int64) * queries, o_query, queries)
    b_delta = tl.load(p_delta + i_row.to(tl.int64) * queries + o_query, mask=o_query < queries, other=0.0)
    p_k += i_batch * s_k_batch + i_kv.to(tl.int64) * s_k_head
    p_v += i_batch * s_v_batch + i_kv.to(tl.int64) * s_v_head
    p_key += i_batch * s_key
    if HAS_BIAS:
        p_bias += i_head.to(tl.int64) * s_bias_head
    if HAS_DISTANCE:
        p_distance += i_head * (2 * reach + 1)
    slope = alibi_slope(i_head, power) if HAS_ALIBI else 0.0
    seed = tl.load(p_seed) if HAS_DROPOUT else 0
    begin, end, whole, stop = planned(p_plan, i_batch, i_block, queries, keys, False, BLOCK_M, BLOCK_N)
    b_acc = unknown_zeros(begin, BLOCK_M, BLOCK_D)
    b_acc = _add_keys(
        b_acc, b_q, b_grad, b_lse, b_delta, b_query, o_query, whole, stop, stop, 0, p_k, p_v, p_key, p_bias,
        p_distance, s_k, s_v, s_bias_query, s_bias_key, queries, keys, head_dim, v_head_dim, window, chunk, slope,
        scale, softcap, reach, seed, drop, i_batch, i_head, False, CAUSAL, HAS_WINDOW, HAS_CHUNK, IS_PLAIN,
        HAS_SOFTCAP, HAS_ALIBI, HAS_BIAS, HAS_DISTANCE, HAS_DROPOUT, BLOCK_N, BLOCK_D, BLOCK_DV, EVEN_D, EVEN_DV,
    )  # fmt: skip
    b_acc = _add_keys(
        b_acc, b_q, b_grad, b_lse, b_delta, b_query, o_query, begin, end, whole, stop - whole, p_k, p_v, p_key,
        p_bias, p_distance, s_k, s_v, s_bias_query, s_bias_key, queries, keys, head_dim, v_head_dim, window, chunk,
        slope, scale, softcap, reach, seed, drop, i_batch, i_head, True, CAUSAL, HAS_WINDOW, HAS_CHUNK, IS_PLAIN,
        HAS_SOFTCAP, HAS_ALIBI, HAS_BIAS, HAS_DISTANCE, HAS_DROPOUT, BLOCK_N, BLOCK_D, BLOCK_DV, EVEN_D, EVEN_DV,
    )  # fmt: skip
    p_grad_q += i_batch * queries * heads * head_dim + i_head * head_dim
    store_rows(p_grad_q, b_acc * scale, i_first, heads * head_dim, queries, head_dim, BLOCK_M, BLOCK_D)


@triton.jit
def _add_queries(
    b_grad_k, b_grad_v, b_k, b_v, b_key, o_key, begin, end, gap_at, gap, p_q, p_grad, p_position, p_lse, p_delta,
    p_bias, p_distance, s_q, s_grad, s_bias_query, s_bias_key, queries, keys, head_dim, v_head_dim, window, chunk,
    slope, scale, softcap, reach, seed, drop, i_batch, i_head,
    MASKED: tl.constexpr, CAUSAL: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_CHUNK: tl.constexpr,
    IS_PLAIN: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HAS_ALIBI: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_DISTANCE: tl.constexpr, HAS_DROPOUT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, EVEN_D: tl.constexpr, EVEN_DV: tl.constexpr,
):  # fmt: skip
    """To the gradients of a block of keys and values, what the query blocks from begin to end add, without the gap."""
    for i in range(begin, end - gap):
        i_query = (i + tl.where(i >= gap_at, gap, 0)) * BLOCK_M
        o_query = i_query + tl.arange(0, BLOCK_M)
        b_query = tl.load(p_position + o_query, mask=o_query < queries, other=-1).to(tl.int32)
        b_q = load_rows(p_q, p_q, i_query, s_q, queries, head_dim, False, False, BLOCK_M, BLOCK_D, EVEN_D)
        b_grad = load_rows(
            p_grad, p_grad, i_query, s_grad, queries, v_head_dim, False, False, BLOCK_M, BLOCK_DV, EVEN_DV
        )
        b_lse = load_lse(p_lse, o_query, queries)
        b_delta = tl.load(p_delta + o_query, mask=o_query < queries, other=0.0)
        b_product = tl.dot(b_k, tl.trans(b_q), input_precision="ieee")
        b_weighted = tl.dot(b_v, tl.trans(b_grad), input_precision="ieee")
        b_weight, _, b_slope = gradients(
            b_product, b_weighted, b_query[None, :], b_key[:, None], o_query[None, :], o_key[:, None], b_lse[None, :],
            b_delta[None, :], p_bias, p_distance, s_bias_query, s_bias_key, queries, keys, window, chunk, slope, scale,
            softcap, reach, seed, drop, i_batch, i_head, MASKED, CAUSAL, HAS_WINDOW, HAS_CHUNK, IS_PLAIN, HAS_SOFTCAP,
            HAS_ALIBI, HAS_BIAS, HAS_DISTANCE, HAS_DROPOUT,
        )  # fmt: skip
        b_grad_v = tl.dot(b_weight.to(b_grad.dtype), b_grad, b_grad_v, input_precision="ieee")
        b_grad_k = tl.dot(b_slope.to(b_q.dtype), b_q, b_grad_k, input_precision="ieee")
    return b_grad_k, b_grad_v


@triton.jit
def _keys(
    p_q, p_k, p_v, p_position, p_key, p_plan, p_bias, p_distance, p_seed, p_grad, p_lse, p_delta, p_grad_k,
    p_grad_v,
    s_q_batch, s_q, s_k_batch, s_k_head, s_k, s_v_batch, s_v_head, s_v, s_position, s_key,
    s_bias_head, s_bias_query, s_bias_key, s_grad_batch, s_grad,
    batch, heads, queries, keys, group, power, blocks, head_dim, v_head_dim, window, chunk, scale, softcap, reach,
    drop, at_once,
    CAUSAL: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_CHUNK: tl.constexpr, IS_PLAIN: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, HAS_ALIBI: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_DISTANCE: tl.constexpr,
    HAS_DROPOUT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    EVEN_D: tl.constexpr, EVEN_DV: tl.constexpr,
):  # fmt: skip
    """The gradients of one block of keys and values of one key head, over all query heads that share it."""
    kv_heads = heads // group
    i_row, i_block = place(batch * kv_heads, blocks, at_once)
    i_batch, i_kv, i_first = (i_row // kv_heads).to(tl.int64), i_row % kv_heads, i_block * BLOCK_N
    o_key = i_first + tl.arange(0, BLOCK_N)
    b_key = tl.load(p_key + i_batch * s_key + o_key, mask=o_key < keys, other=-1).to(tl.int32)
    p_k += i_batch * s_k_batch + i_kv.to(tl.int64) * s_k_head
    p_v += i_batch * s_v_batch + i_kv.to(tl.int64) * s_v_head
    b_k = load_rows(p_k, p_k, i_first, s_k, keys, head_dim, False, False, BLOCK_N, BLOCK_D, EVEN_D)
    b_v = load_rows(p_v, p_v, i_first, s_v, keys, v_head_dim, False, False, BLOCK_N, BLOCK_DV, EVEN_DV)
    p_position += i_batch * s_position
    begin, end, whole, stop = planned(p_plan, i_batch, i_block, keys, queries, False, BLOCK_N, BLOCK_M)
    seed = tl.load(p_seed) if HAS_DROPOUT else 0
    b_grad_k = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    b_grad_v = tl.zeros((BLOCK_N, BLOCK_DV), tl.float32)
    for i in range(group):
        i_head = i_kv * group + i
        p_head_q = p_q + i_batch * s_q_batch + i_head * head_dim
        p_head_grad = p_grad + i_batch * s_grad_batch + i_head * v_head_dim
        o_row = (i_batch * heads + i_head) * queries
        p_head_bias, p_head_distance = p_bias, p_distance
        if HAS_BIAS:
            p_head_bias = p_bias + i_head.to(tl.int64) * s_bias_head
        if HAS_DISTANCE:
            p_head_distance = p_distance + i_head * (2 * reach + 1)
        slope = alibi_slope(i_head, power) if HAS_ALIBI else 0.0
        b_grad_k, b_grad_v = _add_queries(
            b_grad_k, b_grad_v, b_k, b_v, b_key, o_key, whole, stop, stop, 0, p_head_q, p_head_grad, p_position,
            p_lse + o_row, p_delta + o_row, p_head_bias, p_head_distance, s_q, s_grad, s_bias_query, s_bias_key,
            queries, keys, head_dim, v_head_dim, window, chunk, slope, scale, softcap, reach, seed, drop,
            i_batch, i_head, False, CAUSAL, HAS_WINDOW, HAS_CHUNK, IS_PLAIN, HAS_SOFTCAP, HAS_ALIBI, HAS_BIAS,
            HAS_DISTANCE, HAS_DROPOUT, BLOCK_M, BLOCK_D,
            BLOCK_DV, EVEN_D, EVEN_DV,
        )  # fmt: skip
        b_grad_k, b_grad_v = _add_queries(
            b_grad_k, b_grad_v, b_k, b_v, b_key, o_key, begin, end, whole, stop - whole, p_head_q, p_head_grad,
            p_position, p_lse + o_row, p_delta + o_row, p_head_bias, p_head_distance, s_q, s_grad, s_bias_query,
            s_bias_key, queries, keys, head_dim, v_head_dim, window, chunk, slope, scale, softcap, reach, seed,
            drop, i_batch, i_head, True, CAUSAL, HAS_WINDOW, HAS_CHUNK, IS_PLAIN, HAS_SOFTCAP, HAS_ALIBI, HAS_BIAS,
            HAS_DISTANCE, HAS_DROPOUT, BLOCK_M,
            BLOCK_D, BLOCK_DV, EVEN_D, EVEN_DV,
        )  # fmt: skip
    m_real = b_key[:, None] >= 0
    p_grad_k += i_batch * keys * kv_heads * head_dim + i_kv * head_dim
    p_grad_v += i_batch * keys * kv_heads * v_head_dim + i_kv * v_head_dim
    b_grad_k = tl.where(m_real, b_grad_k * scale, 0.0)
    store_rows(p_grad_k, b_grad_k, i_first, kv_heads * head_dim, keys, head_dim, BLOCK_N, BLOCK_D)
    store_rows(
        p_grad_v, tl.where(m_real, b_grad_v, 0.0), i_first, kv_heads * v_head_dim, keys, v_head_dim, BLOCK_N, BLOCK_DV
    )


def launch_backward(
    grad: Tensor, x: Operands, out: Tensor, lse: Tensor, settings: Settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q `[B, T, H*D]`, k `[B, Hkv, S, D]` and v `[B, Hkv, S, Dv]`, and delta `[B, H, T]` float32.

    out and lse are those of `launch_forward`, grad is of out's shape. Those of k and v are laid out as `[B, S, Hkv,
    D]`.
    """
    grad = grad if grad.stride(-1) == 1 or grad.shape[-1] == 1 else grad.contiguous()
    q, k, v, position, key_position, bias, distance_bias, _, seed = x.dense()[:9]
    batch, queries, keys, kv_heads = q.shape[0], q.shape[1], k.shape[2], k.shape[1]
    heads = q.shape[2] // settings.head_dim
    grad_q, delta = q.new_empty(q.shape), torch.empty_like(lse)
    grad_k, grad_v = (x.new_empty((batch, keys, kv_heads, x.shape[3])).transpose(1, 2) for x in (k, v))
    if not lse.numel() or not k.numel():
        return grad_q.zero_(), grad_k.zero_(), grad_v.zero_(), delta.zero_()
    flags = settings.flags(bias, distance_bias)
    block = min(64, max(16, 8192 // int(flags["BLOCK_DV"])))
    launchable(_delta)[(ceil_div(queries, block), batch * heads)](
        out, grad, grad.stride(0), grad.stride(1), delta, queries, heads, settings.v_head_dim, BLOCK_M=block,
        BLOCK_DV=flags["BLOCK_DV"],
    )  # fmt: skip
    key = settings.key(q, keys, is_plain=bool(flags["IS_PLAIN"]) and seed is None)
    limits = settings.limits()
    tensors = (bias, distance_bias, seed, grad, lse, delta)
    strides = (
        *q.stride()[:2], *k.stride()[:3], *v.stride()[:3], position.stride(0), key_position.stride(0),
        *bias_strides(bias), *grad.stride()[:2], batch, heads, queries, keys, heads // kv_heads, power_below(heads),
    )  # fmt: skip
    fields = (
        settings.head_dim, settings.v_head_dim, settings.window, settings.chunk, settings.scale, settings.softcap,
        reach_of(distance_bias), dropped_below(settings.dropout),
    )  # fmt: skip
    flags["HAS_DROPOUT"] = seed is not None
    at_once = settings.at_once(k, heads)

    config = BACKWARD_QUERIES.config(key)
    plan, blocks = plan_blocks(position, key_position, x.plan, **limits), ceil_div(queries, config["BLOCK_M"])
    launchable(_queries)[(blocks * batch * heads,)](
        q, k, v, position, key_position, plan, *tensors, grad_q, *strides, blocks, *fields, at_once, **flags, **config
    )

    config = BACKWARD_KEYS.config(key)
    plan = plan_blocks(position, key_position, x.key_plan, **limits, by_keys=True)
    blocks = ceil_div(keys, config["BLOCK_N"])
    launchable(_keys)[(blocks * batch * kv_heads,)](
        q, k, v, position, key_position, plan, *tensors, grad_k, grad_v, *strides, blocks, *fields,
        max(1, at_once * kv_heads // heads), **flags, **config,
    )  # fmt: skip
    return grad_q, grad_k, grad_v, delta


TUNABLES = (BACKWARD_QUERIES, BACKWARD_KEYS)
