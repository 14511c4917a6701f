"""Segments of a scan in Triton: the matrix by which each takes a state on, and the states that pass between them.

With `W`, the writes `K` and the factor e of each chunk, a state crosses it as `e S - K^T W S`, and its gradient, from
the row's end, as `e G - W^T K G`. What a segment adds of its own does not matter to that.
"""

# pyright: basic
from __future__ import annotations

import triton
import triton.language as tl

from .triton_chunked import state_product


@triton.jit
def factors(p_whole, i_row, o_k, m_k, key_dim, PER_CHANNEL: tl.constexpr):
    """How a chunk scales the rows of a state, `[K, 1]` or one; i_row is the chunk's among those of all heads."""
    if PER_CHANNEL:
        b_factor = tl.exp(tl.load(p_whole + i_row * key_dim + o_k, mask=m_k, other=0.0))[:, None]
    else:
        b_factor = tl.exp(tl.load(p_whole + i_row))
    return b_factor


@triton.jit
def crossing(
    p_first, p_second, p_whole, p_crossing, padded, per_segment, key_dim,
    PER_CHANNEL: tl.constexpr, BACKWARDS: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
):  # fmt: skip
    """BLOCK_V columns of one head and segment: p_crossing `[S, B*H, Dk, Dk]` float32, chunk after chunk multiplied on.

    p_first is W and p_second the writes, `[B*H, T, Dk]`; BACKWARDS the other way round, from the last chunk.
    """
    i_bh, chunks = tl.program_id(1).to(tl.int64), padded // CHUNK
    o_c, o_k, o_v = tl.arange(0, CHUNK), tl.arange(0, BLOCK_K), tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    m_k = o_k < key_dim
    b_s = tl.where(o_k[:, None] == o_v[None, :], 1.0, 0.0)
    begin = tl.program_id(2) * per_segment
    count = tl.minimum(per_segment, chunks - begin)
    for n in range(count):
        i = begin + (count - 1 - n if BACKWARDS else n)
        o_key = (i_bh * padded + i * CHUNK + o_c)[:, None] * key_dim + o_k[None, :]
        b_first = tl.load(p_first + o_key, mask=m_k[None, :], other=0.0)
        b_second = tl.load(p_second + o_key, mask=m_k[None, :], other=0.0)
        b_taken = state_product(b_first, b_s)
        b_s *= factors(p_whole, i_bh * chunks + i, o_k, m_k, key_dim, PER_CHANNEL)
        b_s -= state_product(tl.trans(b_second), b_taken)
    p_to = p_crossing + (tl.program_id(2) * tl.num_programs(1) + i_bh) * key_dim * key_dim
    tl.store(p_to + o_k[:, None] * key_dim + o_v[None, :], b_s, mask=m_k[:, None] & (o_v < key_dim)[None, :])


@triton.jit
def pass_on(
    p_left, p_crossing, p_whole, p_states, p_last, padded, per_segment, segments, key_dim, value_dim,
    PER_CHANNEL: tl.constexpr, BACKWARDS: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """BLOCK_V columns of one head: p_states `[S, B*H, Dk, Dv]`, the state before each segment, from what each left.

    That before the first is there; p_last is that after the last. Without p_crossing segments scale by their factors.
    BACKWARDS, the gradients after each, from the last segment.
    """
    i_bh, chunks = tl.program_id(1).to(tl.int64), padded // CHUNK
    o_k, o_v = tl.arange(0, BLOCK_K), tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    m_k = o_k < key_dim
    m_s = m_k[:, None] & (o_v < value_dim)[None, :]
    o_s = o_k[:, None] * value_dim + o_v[None, :]
    size = key_dim * value_dim
    i_first = (segments - 1) * tl.num_programs(1) + i_bh if BACKWARDS else i_bh
    b_s = tl.load(p_states + i_first * size + o_s, mask=m_s, other=0.0)
    for n in range(segments):
        i = segments - 1 - n if BACKWARDS else n
        i_head = i * tl.num_programs(1) + i_bh
        tl.store(p_states + i_head * size + o_s, b_s, mask=m_s)
        b_left = tl.load(p_left + i_head * size + o_s, mask=m_s, other=0.0)
        if p_crossing is not None:
            p_from = p_crossing + i_head * key_dim * key_dim + o_k[:, None] * key_dim + o_k[None, :]
            b_crossing = tl.load(p_from, mask=m_k[:, None] & m_k[None, :], other=0.0)
            b_s = tl.dot(b_crossing, b_s, input_precision=PRECISION) + b_left
        else:
            for j in range(i * per_segment, tl.minimum((i + 1) * per_segment, chunks)):
                b_s *= factors(p_whole, i_bh * chunks + j, o_k, m_k, key_dim, PER_CHANNEL)
            b_s += b_left
    tl.store(p_last + i_bh * size + o_s, b_s, mask=m_s)
