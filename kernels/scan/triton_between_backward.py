"""Gradients of what passes between the chunks of a scan in Triton: a walk from the row's end, then products.

The walk carries the gradient of the state, as the forward walk carries the state; all else is made of both, of each
chunk alone, all side by side. Gradients are multiplied in bfloat16 for bfloat16 operands, else in float32 (TF32 for
float16), since they may leave float16's range.
"""

# pyright: basic
from __future__ import annotations

import triton
import triton.language as tl

from .triton_chunked import state_product
from .triton_crossing import factors


@triton.jit
def product(b_x, b_y, PRECISION: tl.constexpr):
    """`x @ y`, in float32 where they are of two dtypes."""
    if b_x.dtype == b_y.dtype:
        b_out = tl.dot(b_x, b_y, input_precision=PRECISION)
    else:
        b_out = tl.dot(b_x.to(tl.float32), b_y.to(tl.float32), input_precision=PRECISION)
    return b_out


@triton.jit
def between_backward(
    p_grad, p_position, p_scores, p_reads, p_writes, p_w, p_whole, p_end, p_slopes, p_grad_u, p_begin,
    tokens, count, padded, per_segment, heads, key_dim, value_dim, grad_row, scale,
    UPDATE: tl.constexpr, PER_CHANNEL: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """BLOCK_V columns of one head and segment, from its last chunk: p_slopes `[B, H, N, Dk, Dv]`, the gradient of the
    state after each chunk, p_grad_u `[B, H, T, Dv]` that of u, where given; p_end, p_begin `[S, B*H, Dk, Dv]` of the
    state after and before each segment, zeros and not wanted where absent."""
    i_bh = tl.program_id(1).to(tl.int64)
    i_b, i_h = i_bh // heads, tl.program_id(1) % heads
    o_c, o_k, o_v = tl.arange(0, CHUNK), tl.arange(0, BLOCK_K), tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    m_k, m_v = o_k < key_dim, o_v < value_dim
    m_causal = o_c[:, None] >= o_c[None, :]
    m_s = m_k[:, None] & m_v[None, :]
    o_s = o_k[:, None] * value_dim + o_v[None, :]
    size = key_dim * value_dim
    i_head = tl.program_id(2) * tl.num_programs(1) + i_bh
    b_slope = tl.zeros((BLOCK_K, BLOCK_V), tl.float32)
    if p_end is not None:
        b_slope = tl.load(p_end + i_head * size + o_s, mask=m_s, other=0.0).to(tl.float32)
    DTYPE: tl.constexpr = p_reads.dtype.element_ty
    chunks = padded // CHUNK
    begin = tl.program_id(2) * per_segment
    end = tl.minimum(begin + per_segment, chunks)
    for n in range(end - begin):
        i = end - 1 - n
        o_t = i * CHUNK + o_c
        m_t = tl.load(p_position + i_b * tokens + o_t, mask=o_t < count, other=-1) >= 0
        o_row = i_bh * padded + o_t
        o_key = o_row[:, None] * key_dim + o_k[None, :]
        if p_slopes is not None:
            tl.store(p_slopes + (i_bh * chunks + i) * size + o_s, b_slope.to(p_slopes.dtype.element_ty), mask=m_s)
        p_from = p_grad + (i_b * tokens + o_t)[:, None] * grad_row + i_h * value_dim + o_v[None, :]
        b_grad = tl.load(p_from, mask=m_t[:, None] & m_v[None, :], other=0.0).to(DTYPE)
        b_scores = tl.load(p_scores + o_row[:, None] * CHUNK + o_c[None, :], mask=m_causal, other=0.0)
        b_writes = tl.load(p_writes + o_key, mask=m_k[None, :], other=0.0)
        b_grad_u = tl.dot(tl.trans(b_scores), b_grad, input_precision="ieee") * scale
        b_grad_u += state_product(b_writes, b_slope)
        if p_grad_u is not None:
            p_to = p_grad_u + o_row[:, None] * value_dim + o_v[None, :]
            tl.store(p_to, b_grad_u.to(p_grad_u.dtype.element_ty), mask=m_v[None, :])
        b_reads = tl.load(p_reads + o_key, mask=m_k[None, :], other=0.0)
        b_slope *= factors(p_whole, i_bh * chunks + i, o_k, m_k, key_dim, PER_CHANNEL)
        b_slope += tl.dot(tl.trans(b_reads), b_grad, input_precision="ieee") * scale
        if UPDATE != "add":
            b_w = tl.load(p_w + o_key, mask=m_k[None, :], other=0.0)
            b_slope -= state_product(tl.trans(b_w), b_grad_u)
    if p_begin is not None:
        tl.store(p_begin + i_head * size + o_s, b_slope, mask=m_s)


@triton.jit
def values_backward(
    p_grad, p_v, p_position, p_skip, p_beta, p_dt, p_inverse, p_scores_v, p_writes_v, p_feed, p_slopes, p_grad_u,
    p_grad_v, p_grad_amount, p_grad_skip,
    tokens, count, padded, heads, key_dim, value_dim, grad_row, v_row, beta_row, scale,
    UPDATE: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One chunk of one head: p_grad_u becomes the gradient of the right side that u is solved from. Gradients of v, of
    what scales it in the delta rule, `[B, H, T]`, and of skip, `[B, H, N]`."""
    i_bh, i_chunk, chunks = tl.program_id(1).to(tl.int64), tl.program_id(0), tl.num_programs(0)
    i_b, i_h = i_bh // heads, tl.program_id(1) % heads
    o_c, o_k = tl.arange(0, CHUNK), tl.arange(0, BLOCK_K)
    o_t, m_k = i_chunk * CHUNK + o_c, o_k < key_dim
    m_in = o_t < count
    m_t = tl.load(p_position + i_b * tokens + o_t, mask=m_in, other=-1) >= 0
    o_in, o_row = i_b * tokens + o_t, i_bh * padded + o_t
    o_square = o_row[:, None] * CHUNK + o_c[None, :]
    b_grad_amount, b_grad_skip = tl.zeros((CHUNK,), tl.float32), 0.0
    if UPDATE == "delta":
        b_amount = tl.load(p_beta + o_in * beta_row + i_h, mask=m_t, other=0.0).to(tl.float32)
        if p_dt is not None:
            b_amount *= tl.load(p_dt + i_bh * tokens + o_t, mask=m_t, other=0.0)
    for i in range(tl.cdiv(value_dim, BLOCK_V)):
        o_v = i * BLOCK_V + tl.arange(0, BLOCK_V)
        m_v = o_v < value_dim
        m_tv = m_t[:, None] & m_v[None, :]
        b_grad = tl.load(p_grad + o_in[:, None] * grad_row + i_h * value_dim + o_v[None, :], mask=m_tv, other=0.0)
        b_v = tl.load(p_v + o_in[:, None] * v_row + i_h * value_dim + o_v[None, :], mask=m_tv, other=0.0).to(tl.float32)
        p_own = p_grad_u + o_row[:, None] * value_dim + o_v[None, :]
        b_grad_v = tl.load(p_own, mask=m_v[None, :], other=0.0).to(tl.float32)
        if UPDATE != "add":
            b_inverse = tl.load(p_inverse + o_square)
            b_right = tl.dot(tl.trans(b_inverse), b_grad_v, input_precision=PRECISION)
            tl.store(p_own, b_right.to(p_grad_u.dtype.element_ty), mask=m_v[None, :])
            if UPDATE == "delta":
                b_grad_v = b_right * b_amount[:, None]
                b_grad_amount += tl.sum(b_right * b_v, 1)
            else:
                b_scores_v = tl.load(p_scores_v + o_square, mask=o_c[:, None] >= o_c[None, :], other=0.0)
                b_feed = tl.load(p_feed + o_square, mask=o_c[:, None] > o_c[None, :], other=0.0)
                m_s = m_k[:, None] & m_v[None, :]
                p_from = p_slopes + (i_bh * chunks + i_chunk) * key_dim * value_dim
                b_slope = tl.load(p_from + o_k[:, None] * value_dim + o_v[None, :], mask=m_s, other=0.0)
                b_writes_v = tl.load(p_writes_v + o_row[:, None] * key_dim + o_k[None, :], mask=m_k[None, :], other=0.0)
                b_grad_v = product(tl.trans(b_scores_v), b_grad, PRECISION) * scale
                b_grad_v += product(b_writes_v, b_slope, PRECISION)
                b_grad_v += state_product(tl.trans(b_feed), b_right)
        if p_skip is not None:
            b_wide = b_grad.to(tl.float32)
            b_grad_v += tl.load(p_skip + i_h).to(tl.float32) * b_wide
            b_grad_skip += tl.sum(tl.sum(b_wide * b_v, 1), 0)
        b_grad_v = tl.where(m_t[:, None], b_grad_v, 0.0).to(p_grad_v.dtype.element_ty)
        p_to = p_grad_v + o_in[:, None] * (heads * value_dim) + i_h * value_dim + o_v[None, :]
        tl.store(p_to, b_grad_v, mask=m_in[:, None] & m_v[None, :])
    if UPDATE == "delta":
        tl.store(p_grad_amount + o_row, b_grad_amount)
    if p_skip is not None:
        tl.store(p_grad_skip + i_bh * chunks + i_chunk, b_grad_skip)


@triton.jit
def squares_backward(
    p_grad, p_v, p_position, p_u, p_right, p_grad_scores, p_grad_system, p_grad_scores_v, p_grad_feed,
    tokens, count, padded, heads, value_dim, grad_row, v_row, scale,
    UPDATE: tl.constexpr, CHUNK: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One chunk of one head: the gradients of the scores and the system, `[C, C]`, and of what feeds v into these.

    p_right is the gradient of the system's right side.
    """
    i_bh = tl.program_id(1).to(tl.int64)
    i_b, i_h = i_bh // heads, tl.program_id(1) % heads
    o_c = tl.arange(0, CHUNK)
    o_t = tl.program_id(0) * CHUNK + o_c
    m_t = tl.load(p_position + i_b * tokens + o_t, mask=o_t < count, other=-1) >= 0
    o_in, o_row = i_b * tokens + o_t, i_bh * padded + o_t
    b_scores, b_system = tl.zeros((CHUNK, CHUNK), tl.float32), tl.zeros((CHUNK, CHUNK), tl.float32)
    b_scores_v, b_feed = tl.zeros((CHUNK, CHUNK), tl.float32), tl.zeros((CHUNK, CHUNK), tl.float32)
    for i in range(tl.cdiv(value_dim, BLOCK_V)):
        o_v = i * BLOCK_V + tl.arange(0, BLOCK_V)
        m_v = o_v < value_dim
        m_tv = m_t[:, None] & m_v[None, :]
        b_grad = tl.load(p_grad + o_in[:, None] * grad_row + i_h * value_dim + o_v[None, :], mask=m_tv, other=0.0)
        if UPDATE != "delta":
            b_v = tl.load(p_v + o_in[:, None] * v_row + i_h * value_dim + o_v[None, :], mask=m_tv, other=0.0)
        if UPDATE == "add":
            b_u = b_v
        else:
            o_value = o_row[:, None] * value_dim + o_v[None, :]
            b_u = tl.load(p_u + o_value, mask=m_v[None, :], other=0.0)
            b_right = tl.load(p_right + o_value, mask=m_v[None, :], other=0.0)
            b_system -= product(b_right, tl.trans(b_u), PRECISION)
            if UPDATE == "erase_write":
                b_feed -= product(b_right, tl.trans(b_v), PRECISION)
                b_scores_v += product(b_grad, tl.trans(b_v), PRECISION)
        b_scores += product(b_grad, tl.trans(b_u), PRECISION)
    o_square = o_row[:, None] * CHUNK + o_c[None, :]
    KEPT: tl.constexpr = p_grad_scores.dtype.element_ty
    tl.store(p_grad_scores + o_square, (b_scores * scale).to(KEPT))
    if UPDATE != "add":
        tl.store(p_grad_system + o_square, b_system.to(KEPT))
    if UPDATE == "erase_write":
        tl.store(p_grad_scores_v + o_square, (b_scores_v * scale).to(KEPT))
        tl.store(p_grad_feed + o_square, b_feed.to(KEPT))


@triton.jit
def keys_backward(
    p_grad, p_v, p_position, p_u, p_right, p_whole, p_states, p_slopes,
    p_grad_reads, p_grad_solves, p_grad_writes, p_grad_writes_v, p_grad_whole,
    tokens, count, padded, heads, key_dim, value_dim, grad_row, v_row, scale,
    UPDATE: tl.constexpr, PER_CHANNEL: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """BLOCK_K elements of the keys of one chunk of one head: the gradients of what reads the state before it and of
    what is written after it, `[C, Dk]`; of the chunk's log decay `[Dk]`. Blocks of one chunk run together."""
    parts = tl.cdiv(key_dim, BLOCK_K)
    i_bh, i_chunk, chunks = tl.program_id(1).to(tl.int64), tl.program_id(0) // parts, tl.num_programs(0) // parts
    i_b, i_h = i_bh // heads, tl.program_id(1) % heads
    o_c, o_k = tl.arange(0, CHUNK), (tl.program_id(0) % parts) * BLOCK_K + tl.arange(0, BLOCK_K)
    o_t, m_k = i_chunk * CHUNK + o_c, o_k < key_dim
    m_t = tl.load(p_position + i_b * tokens + o_t, mask=o_t < count, other=-1) >= 0
    o_in, o_row = i_b * tokens + o_t, i_bh * padded + o_t
    o_s = (i_bh * chunks + i_chunk) * key_dim * value_dim
    b_reads, b_writes = tl.zeros((CHUNK, BLOCK_K), tl.float32), tl.zeros((CHUNK, BLOCK_K), tl.float32)
    b_solves, b_writes_v = tl.zeros((CHUNK, BLOCK_K), tl.float32), tl.zeros((CHUNK, BLOCK_K), tl.float32)
    b_same = tl.zeros((BLOCK_K,), tl.float32)
    for i in range(tl.cdiv(value_dim, BLOCK_V)):
        o_v = i * BLOCK_V + tl.arange(0, BLOCK_V)
        m_v = o_v < value_dim
        m_tv, m_s = m_t[:, None] & m_v[None, :], m_k[:, None] & m_v[None, :]
        b_grad = tl.load(p_grad + o_in[:, None] * grad_row + i_h * value_dim + o_v[None, :], mask=m_tv, other=0.0)
        b_state = tl.load(p_states + o_s + o_k[:, None] * value_dim + o_v[None, :], mask=m_s, other=0.0)
        b_slope = tl.load(p_slopes + o_s + o_k[:, None] * value_dim + o_v[None, :], mask=m_s, other=0.0)
        if UPDATE != "delta":
            b_v = tl.load(p_v + o_in[:, None] * v_row + i_h * value_dim + o_v[None, :], mask=m_tv, other=0.0)
        if UPDATE == "add":
            b_u = b_v
        else:
            o_value = o_row[:, None] * value_dim + o_v[None, :]
            b_u = tl.load(p_u + o_value, mask=m_v[None, :], other=0.0)
            b_right = tl.load(p_right + o_value, mask=m_v[None, :], other=0.0)
            b_solves -= product(b_right, tl.trans(b_state), PRECISION)
            if UPDATE == "erase_write":
                b_writes_v += product(b_v, tl.trans(b_slope), PRECISION)
        b_reads += product(b_grad, tl.trans(b_state), PRECISION)
        b_writes += product(b_u, tl.trans(b_slope), PRECISION)
        b_same += tl.sum(b_state.to(tl.float32) * b_slope.to(tl.float32), 1)
    o_to, m_to = o_row[:, None] * key_dim + o_k[None, :], tl.broadcast_to(m_k[None, :], (CHUNK, BLOCK_K))
    KEPT: tl.constexpr = p_grad_reads.dtype.element_ty
    tl.store(p_grad_reads + o_to, (b_reads * scale).to(KEPT), mask=m_to)
    tl.store(p_grad_writes + o_to, b_writes.to(KEPT), mask=m_to)
    if UPDATE != "add":
        tl.store(p_grad_solves + o_to, b_solves.to(KEPT), mask=m_to)
    if UPDATE == "erase_write":
        tl.store(p_grad_writes_v + o_to, b_writes_v.to(KEPT), mask=m_to)
    if PER_CHANNEL:
        b_whole = tl.load(p_whole + (i_bh * chunks + i_chunk) * key_dim + o_k, mask=m_k, other=0.0)
    else:
        b_whole = tl.broadcast_to(tl.load(p_whole + i_bh * chunks + i_chunk), (BLOCK_K,))
    tl.store(p_grad_whole + (i_bh * chunks + i_chunk) * key_dim + o_k, b_same * tl.exp(b_whole), mask=m_k)
