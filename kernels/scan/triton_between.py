"""What passes between the chunks of a scan in Triton: a state in registers, read and written by matrix products."""

# pyright: basic
from __future__ import annotations

import triton
import triton.language as tl

from .triton_chunked import state_product
from .triton_crossing import factors


@triton.jit
def solved(
    p_inverse, p_solves, p_feed, p_v, p_position, p_beta, p_dt, p_w, p_u,
    tokens, count, padded, heads, key_dim, value_dim, v_row, beta_row,
    UPDATE: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Of one chunk of one head: p_w `[C, Dk]` what the state before it takes from u, p_u `[C, Dv]` the rest of u."""
    i_bh = tl.program_id(1).to(tl.int64)
    i_b, i_h = i_bh // heads, tl.program_id(1) % heads
    o_c, o_k = tl.arange(0, CHUNK), tl.arange(0, BLOCK_K)
    o_t, m_k = tl.program_id(0) * CHUNK + o_c, o_k < key_dim
    o_row = i_bh * padded + o_t
    o_square = o_row[:, None] * CHUNK + o_c[None, :]
    b_inverse = tl.load(p_inverse + o_square)
    b_solves = tl.load(p_solves + o_row[:, None] * key_dim + o_k[None, :], mask=m_k[None, :], other=0.0)
    DTYPE: tl.constexpr = p_w.dtype.element_ty
    PRECISION: tl.constexpr = "ieee" if p_w.dtype.element_ty == tl.float32 else "tf32"  # pyright: ignore
    b_w = tl.dot(b_inverse, b_solves.to(tl.float32), input_precision=PRECISION)
    tl.store(p_w + o_row[:, None] * key_dim + o_k[None, :], b_w.to(DTYPE), mask=m_k[None, :])
    m_t = tl.load(p_position + i_b * tokens + o_t, mask=o_t < count, other=-1) >= 0
    for i in range(tl.cdiv(value_dim, BLOCK_V)):
        o_v = i * BLOCK_V + tl.arange(0, BLOCK_V)
        m_v = o_v < value_dim
        p_from = p_v + (i_b * tokens + o_t)[:, None] * v_row + i_h * value_dim + o_v[None, :]
        b_v = tl.load(p_from, mask=m_t[:, None] & m_v[None, :], other=0.0)
        if UPDATE == "delta":
            b_amount = tl.load(p_beta + (i_b * tokens + o_t) * beta_row + i_h, mask=m_t, other=0.0).to(tl.float32)
            if p_dt is not None:
                b_amount *= tl.load(p_dt + i_bh * tokens + o_t, mask=m_t, other=0.0)
            b_right = b_v.to(tl.float32) * b_amount[:, None]
        else:
            b_feed = tl.load(p_feed + o_square, mask=o_c[:, None] > o_c[None, :], other=0.0)
            b_right = tl.dot(b_feed, b_v.to(DTYPE), input_precision="ieee")
        b_u = tl.dot(b_inverse, b_right, input_precision=PRECISION)
        p_to = p_u + o_row[:, None] * value_dim + o_v[None, :]
        tl.store(p_to, b_u.to(DTYPE), mask=m_v[None, :])


@triton.jit
def between(
    p_v, p_position, p_skip, p_scores, p_scores_v, p_reads, p_writes, p_writes_v, p_w, p_u, p_whole, p_initial, p_final,
    p_out, p_states, p_solution, tokens, count, padded, per_segment, heads, key_dim, value_dim, v_row, scale,
    UPDATE: tl.constexpr, PER_CHANNEL: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """BLOCK_V columns of one head and segment, chunk by chunk; operands as `inside` and `solved` leave them.

    p_initial, p_final `[S, B*H, Dk, Dv]`, before and after each segment: zeros and not wanted where absent, as p_out.
    Where given, p_states `[B, H, N, Dk, Dv]` keeps the state before each chunk and p_solution `[B, H, T, Dv]` keeps u.
    """
    i_bh = tl.program_id(1).to(tl.int64)
    i_b, i_h = i_bh // heads, tl.program_id(1) % heads
    o_c, o_k, o_v = tl.arange(0, CHUNK), tl.arange(0, BLOCK_K), tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    m_k, m_v = o_k < key_dim, o_v < value_dim
    m_causal = o_c[:, None] >= o_c[None, :]
    m_s = m_k[:, None] & m_v[None, :]
    i_head = tl.program_id(2) * tl.num_programs(1) + i_bh
    o_s = (i_head * key_dim + o_k[:, None]) * value_dim + o_v[None, :]
    b_s = tl.zeros((BLOCK_K, BLOCK_V), tl.float32)
    if p_initial is not None:
        b_s = tl.load(p_initial + o_s, mask=m_s, other=0.0).to(tl.float32)
    DTYPE: tl.constexpr = p_reads.dtype.element_ty
    chunks = padded // CHUNK
    begin = tl.program_id(2) * per_segment
    for i in range(begin, tl.minimum(begin + per_segment, chunks)):
        o_t = i * CHUNK + o_c
        m_in = o_t < count
        m_t = tl.load(p_position + i_b * tokens + o_t, mask=m_in, other=-1) >= 0
        o_row = i_bh * padded + o_t
        o_square = o_row[:, None] * CHUNK + o_c[None, :]
        o_key = o_row[:, None] * key_dim + o_k[None, :]
        if p_states is not None:
            p_to = p_states + (i_bh * chunks + i) * key_dim * value_dim + o_k[:, None] * value_dim + o_v[None, :]
            tl.store(p_to, b_s.to(p_states.dtype.element_ty), mask=m_s)
        b_writes = tl.load(p_writes + o_key, mask=m_k[None, :], other=0.0)
        p_from = p_v + (i_b * tokens + o_t)[:, None] * v_row + i_h * value_dim + o_v[None, :]
        b_v = tl.load(p_from, mask=m_t[:, None] & m_v[None, :], other=0.0).to(DTYPE)
        b_u = b_v
        if UPDATE != "add":
            b_w = tl.load(p_w + o_key, mask=m_k[None, :], other=0.0)
            b_right = tl.load(p_u + o_row[:, None] * value_dim + o_v[None, :], mask=m_v[None, :], other=0.0)
            b_u = (b_right.to(tl.float32) - state_product(b_w, b_s)).to(DTYPE)
            if p_solution is not None:
                tl.store(p_solution + o_row[:, None] * value_dim + o_v[None, :], b_u, mask=m_v[None, :])
        if p_out is not None:
            b_scores = tl.load(p_scores + o_square, mask=m_causal, other=0.0)
            b_reads = tl.load(p_reads + o_key, mask=m_k[None, :], other=0.0)
            b_out = state_product(b_reads, b_s) + tl.dot(b_scores, b_u, input_precision="ieee")
            if UPDATE == "erase_write":
                b_scores_v = tl.load(p_scores_v + o_square, mask=m_causal, other=0.0)
                b_out += tl.dot(b_scores_v, b_v, input_precision="ieee")
            b_out *= scale
            if p_skip is not None:
                b_out += tl.load(p_skip + i_h).to(tl.float32) * b_v.to(tl.float32)
            p_to = p_out + (i_b * tokens + o_t)[:, None] * (heads * value_dim) + i_h * value_dim + o_v[None, :]
            b_out = tl.where(m_t[:, None], b_out, 0.0).to(p_out.dtype.element_ty)
            tl.store(p_to, b_out, mask=m_in[:, None] & m_v[None, :])
        b_s *= factors(p_whole, i_bh * chunks + i, o_k, m_k, key_dim, PER_CHANNEL)
        b_s += tl.dot(tl.trans(b_writes), b_u, input_precision="ieee")
        if UPDATE == "erase_write":
            b_writes_v = tl.load(p_writes_v + o_key, mask=m_k[None, :], other=0.0)
            b_s += tl.dot(tl.trans(b_writes_v), b_v, input_precision="ieee")
    if p_final is not None:
        tl.store(p_final + o_s, b_s, mask=m_s)
