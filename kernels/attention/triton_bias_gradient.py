"""Gradients of what attention adds to its scores, in Triton, without atomics: of a bias, and of one by distance.

The scores are computed again, as in `triton_backward`. A tile of a bias is one program's, which sums over the batch. By
distance, a query has one key at each distance but the outermost two, so its program stores each gradient at a place of
its own and sums those two in registers; torch then sums over queries and rows. Every sum has one order.
Floor: three products of each pair of blocks and row; by distance also 4 bytes a query, head and distance, twice.
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
from .triton_backward import gradients, load_lse
from .triton_mask import planned
from .triton_plan import plan_blocks
from .triton_scores import alibi_slope
from .triton_settings import BACKWARD_QUERIES, Operands, Settings, bias_strides, power_below, reach_of
from .triton_tiles import load_rows

SCRATCH = 2**28
"""Bytes of gradients by query and distance that are held at once: a batch that needs more goes row by row."""


@triton.jit
def _tile(
    p_q, p_k, p_v, p_position, p_key, p_bias, p_distance, p_grad, p_lse, p_delta,
    s_q_batch, s_q, s_k_batch, s_k_head, s_k, s_v_batch, s_v_head, s_v, s_position, s_key,
    s_bias_head, s_bias_query, s_bias_key, s_grad_batch, s_grad,
    heads, queries, keys, group, power, head_dim, v_head_dim, window, chunk, scale, softcap, reach,
    seed, drop, i_batch, i_head, i_first, i_key,
    CAUSAL: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_CHUNK: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
    HAS_ALIBI: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_DISTANCE: tl.constexpr, HAS_DROPOUT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    EVEN_D: tl.constexpr, EVEN_DV: tl.constexpr,
):  # fmt: skip
    """The gradients of the scores of one pair of blocks after what is added to them, zero where no key is seen, and
    the positions of queries and keys."""
    i_kv = i_head // group
    o_query, o_key = i_first + tl.arange(0, BLOCK_M), i_key + tl.arange(0, BLOCK_N)
    b_query = tl.load(p_position + i_batch * s_position + o_query, mask=o_query < queries, other=-1).to(tl.int32)
    b_key = tl.load(p_key + i_batch * s_key + o_key, mask=o_key < keys, other=-1).to(tl.int32)
    p_q += i_batch * s_q_batch + i_head * head_dim
    p_grad += i_batch * s_grad_batch + i_head * v_head_dim
    p_k += i_batch * s_k_batch + i_kv.to(tl.int64) * s_k_head
    p_v += i_batch * s_v_batch + i_kv.to(tl.int64) * s_v_head
    b_q = load_rows(p_q, p_q, i_first, s_q, queries, head_dim, False, False, BLOCK_M, BLOCK_D, EVEN_D)
    b_grad = load_rows(p_grad, p_grad, i_first, s_grad, queries, v_head_dim, False, False, BLOCK_M, BLOCK_DV, EVEN_DV)
    b_k = load_rows(p_k, p_k, i_key, s_k, keys, head_dim, False, False, BLOCK_N, BLOCK_D, EVEN_D)
    b_v = load_rows(p_v, p_v, i_key, s_v, keys, v_head_dim, False, False, BLOCK_N, BLOCK_DV, EVEN_DV)
    o_row = (i_batch * heads + i_head) * queries
    b_lse = load_lse(p_lse + o_row, o_query, queries)
    b_delta = tl.load(p_delta + o_row + o_query, mask=o_query < queries, other=0.0)
    if HAS_BIAS:
        p_bias += i_head.to(tl.int64) * s_bias_head
    if HAS_DISTANCE:
        p_distance += i_head * (2 * reach + 1)
    slope = alibi_slope(i_head, power) if HAS_ALIBI else 0.0
    b_product = tl.dot(b_q, tl.trans(b_k), input_precision="ieee")
    b_weighted = tl.dot(b_grad, tl.trans(b_v), input_precision="ieee")
    _, b_added, _ = gradients(
        b_product, b_weighted, b_query[:, None], b_key[None, :], o_query[:, None], o_key[None, :], b_lse[:, None],
        b_delta[:, None], p_bias, p_distance, s_bias_query, s_bias_key, queries, keys, window, chunk, slope, scale,
        softcap, reach, seed, drop, i_batch, i_head, True, CAUSAL, HAS_WINDOW, HAS_CHUNK, False, HAS_SOFTCAP, HAS_ALIBI,
        HAS_BIAS, HAS_DISTANCE, HAS_DROPOUT,
    )  # fmt: skip
    return b_added, b_query, b_key


@triton.jit
def of_bias(
    p_q, p_k, p_v, p_position, p_key, p_bias, p_distance, p_seed, p_grad, p_lse, p_delta, p_out,
    s_q_batch, s_q, s_k_batch, s_k_head, s_k, s_v_batch, s_v_head, s_v, s_position, s_key,
    s_bias_head, s_bias_query, s_bias_key, s_grad_batch, s_grad,
    batch, heads, queries, keys, group, power, head_dim, v_head_dim, window, chunk, scale, softcap, reach, drop,
    shared,
    CAUSAL: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_CHUNK: tl.constexpr, IS_PLAIN: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, HAS_ALIBI: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_DISTANCE: tl.constexpr,
    HAS_DROPOUT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    EVEN_D: tl.constexpr, EVEN_DV: tl.constexpr,
):  # fmt: skip
    """One tile of the gradient of a bias `[1 or H, T, S]`, summed over the batch and its `shared` heads."""
    i_key, i_first, i_row = tl.program_id(0) * BLOCK_N, tl.program_id(1) * BLOCK_M, tl.program_id(2)
    seed = tl.load(p_seed) if HAS_DROPOUT else 0
    b_sum = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for i in range(batch * shared):
        i_batch, i_head = (i_row * 0 + i // shared).to(tl.int64), i_row + i % shared
        b_tile, _, _ = _tile(
            p_q, p_k, p_v, p_position, p_key, p_bias, p_distance, p_grad, p_lse, p_delta, s_q_batch, s_q, s_k_batch,
            s_k_head, s_k, s_v_batch, s_v_head, s_v, s_position, s_key, s_bias_head, s_bias_query, s_bias_key,
            s_grad_batch, s_grad, heads, queries, keys, group, power, head_dim, v_head_dim, window, chunk, scale,
            softcap, reach, seed, drop, i_batch, i_head, i_first, i_key, CAUSAL, HAS_WINDOW, HAS_CHUNK, HAS_SOFTCAP,
            HAS_ALIBI, HAS_BIAS, HAS_DISTANCE, HAS_DROPOUT, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_DV, EVEN_D, EVEN_DV,
        )  # fmt: skip
        b_sum += b_tile
    o_query, o_key = i_first + tl.arange(0, BLOCK_M), i_key + tl.arange(0, BLOCK_N)
    p_rows = p_out + (i_row.to(tl.int64) * queries + o_query[:, None]) * keys + o_key[None, :]
    m_pair = (o_query < queries)[:, None] & (o_key < keys)[None, :]
    tl.store(p_rows, b_sum.to(p_out.dtype.element_ty), mask=m_pair)


@triton.jit
def by_distance(
    p_q, p_k, p_v, p_position, p_key, p_plan, p_bias, p_distance, p_seed, p_grad, p_lse, p_delta, p_out,
    s_q_batch, s_q, s_k_batch, s_k_head, s_k, s_v_batch, s_v_head, s_v, s_position, s_key,
    s_bias_head, s_bias_query, s_bias_key, s_grad_batch, s_grad,
    batch, heads, queries, keys, group, power, head_dim, v_head_dim, window, chunk, scale, softcap, reach, drop,
    first,
    CAUSAL: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_CHUNK: tl.constexpr, IS_PLAIN: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, HAS_ALIBI: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_DISTANCE: tl.constexpr,
    HAS_DROPOUT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    EVEN_D: tl.constexpr, EVEN_DV: tl.constexpr,
):  # fmt: skip
    """A block of queries of one head: gradients by distance `[T, 2 * reach + 1]` of its queries, into zeros. Rows of
    the batch count from `first`."""
    i_block, i_row = tl.program_id(0), tl.program_id(1)
    i_batch, i_head, i_first = (first + i_row // heads).to(tl.int64), i_row % heads, i_block * BLOCK_M
    begin, end, _, _ = planned(p_plan, i_batch, i_block, queries, keys, False, BLOCK_M, BLOCK_N)
    o_query = i_first + tl.arange(0, BLOCK_M)
    m_query = o_query < queries
    p_rows = p_out + (i_row.to(tl.int64) * queries + o_query) * (2 * reach + 1)
    seed = tl.load(p_seed) if HAS_DROPOUT else 0
    b_before, b_after = tl.zeros((BLOCK_M,), tl.float32), tl.zeros((BLOCK_M,), tl.float32)
    for i in range(begin, end):
        b_tile, b_query, b_key = _tile(
            p_q, p_k, p_v, p_position, p_key, p_bias, p_distance, p_grad, p_lse, p_delta, s_q_batch, s_q, s_k_batch,
            s_k_head, s_k, s_v_batch, s_v_head, s_v, s_position, s_key, s_bias_head, s_bias_query, s_bias_key,
            s_grad_batch, s_grad, heads, queries, keys, group, power, head_dim, v_head_dim, window, chunk, scale,
            softcap, reach, seed, drop, i_batch, i_head, i_first, (begin * 0 + i) * BLOCK_N, CAUSAL, HAS_WINDOW,
            HAS_CHUNK, HAS_SOFTCAP, HAS_ALIBI, HAS_BIAS, HAS_DISTANCE, HAS_DROPOUT, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_DV,
            EVEN_D, EVEN_DV,
        )  # fmt: skip
        b_distance = b_key[None, :] - b_query[:, None]
        m_near = (b_distance > -reach) & (b_distance < reach) & (b_key >= 0)[None, :] & (b_query >= 0)[:, None]
        tl.store(p_rows[:, None] + b_distance + reach, b_tile, mask=m_near & m_query[:, None])
        b_before += tl.sum(tl.where(b_distance <= -reach, b_tile, 0.0), 1)
        b_after += tl.sum(tl.where((b_distance >= reach) & (b_distance > -reach), b_tile, 0.0), 1)
    if reach > 0:
        tl.store(p_rows + 2 * reach, b_after, mask=m_query)
        tl.store(p_rows, b_before, mask=m_query)
    else:
        tl.store(p_rows, b_before + b_after, mask=m_query)


def launch_bias_gradients(
    grad: Tensor, x: Operands, lse: Tensor, delta: Tensor, settings: Settings, wants_bias: bool, wants_distance: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of bias and distance_bias in their shapes and dtypes, each of no elements where it is not wanted.

    The arguments are those of `launch_backward`, delta what it gives.
    """
    grad = grad if grad.stride(-1) == 1 or grad.shape[-1] == 1 else grad.contiguous()
    q, k, v, position, key_position, bias, distance_bias, _, seed = x.dense()[:9]
    batch, queries, keys, kv_heads = q.shape[0], q.shape[1], k.shape[2], k.shape[1]
    heads = q.shape[2] // settings.head_dim
    of_bias_, of_distance = q.new_empty(0), q.new_empty(0)
    flags = settings.flags(bias, distance_bias)
    config = BACKWARD_QUERIES.config(settings.key(q, keys, is_plain=False))
    m, n = min(config["BLOCK_M"], 64), config["BLOCK_N"]  # a tile of sums lies beside those of scores
    config = {**config, "BLOCK_M": m}
    strides = (
        *q.stride()[:2], *k.stride()[:3], *v.stride()[:3], position.stride(0), key_position.stride(0),
        *bias_strides(bias), *grad.stride()[:2], batch, heads, queries, keys, heads // kv_heads, power_below(heads),
        settings.head_dim, settings.v_head_dim, settings.window, settings.chunk, settings.scale, settings.softcap,
        reach_of(distance_bias), dropped_below(settings.dropout),
    )  # fmt: skip
    flags["HAS_DROPOUT"] = seed is not None
    is_empty = not lse.numel() or not k.numel()
    if wants_bias and bias is not None:
        of_bias_ = torch.zeros_like(bias) if is_empty else bias.new_empty(bias.shape)
        if not is_empty:
            launchable(of_bias)[(ceil_div(keys, n), ceil_div(queries, m), len(bias))](
                q, k, v, position, key_position, bias, distance_bias, seed, grad, lse, delta, of_bias_, *strides,
                heads // len(bias), **flags, **config,
            )  # fmt: skip
    if wants_distance and distance_bias is not None:
        total = torch.zeros(distance_bias.shape, dtype=torch.float32, device=q.device)
        rows = max(1, SCRATCH // max(1, 4 * queries * distance_bias.numel()))
        plan = None if is_empty else plan_blocks(position, key_position, x.plan, **settings.limits())
        for first in range(0, 0 if is_empty else batch, rows):
            count = min(rows, batch - first)
            part = total.new_zeros((count, heads, queries, distance_bias.shape[1]))
            launchable(by_distance)[(ceil_div(queries, m), count * heads)](
                q, k, v, position, key_position, plan, bias, distance_bias, seed, grad, lse, delta, part, *strides,
                first, **flags, **config,
            )  # fmt: skip
            total += part.sum((0, 2))
        of_distance = total.to(distance_bias.dtype)
    return of_bias_, of_distance
