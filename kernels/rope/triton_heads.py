"""Heads of a token as attention wants them, in registers: normed, then turned by the token's row of the table."""

# pyright: basic, reportUnboundVariable=false
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def turn_heads(
    p_row, p_table, p_weight, eps, offset, m_head,
    HEAD_DIM: tl.constexpr, ROTARY: tl.constexpr, IS_INTERLEAVED: tl.constexpr, HAS_NORM: tl.constexpr,
    HAS_OFFSET: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """`[heads, BLOCK_D]` of the heads that begin at p_row `[heads, 1]`, where m_head `[heads]`; zeros elsewhere.

    Rounded to the heads' dtype as `rms_norm` and `rope_apply` round. ROTARY and HAS_NORM may be 0.
    """
    o_d = tl.arange(0, BLOCK_D)
    m_x = m_head[:, None] & (o_d < HEAD_DIM)[None, :]
    b_x = tl.load(p_row + o_d[None, :], mask=m_x, other=0.0)
    if HAS_NORM:
        b_wide = b_x.to(tl.float32)
        b_scale = tl.rsqrt(tl.sum(b_wide * b_wide, 1) / HEAD_DIM + eps)[:, None]
        b_weight = tl.load(p_weight + o_d, mask=o_d < HEAD_DIM, other=0.0)[None, :]
        b_x = normed(b_x, b_scale, b_weight, offset, HAS_OFFSET)
    if ROTARY:
        half: tl.constexpr = ROTARY // 2
        m_turned = o_d < ROTARY
        if IS_INTERLEAVED:
            o_angle, o_other, m_left = o_d // 2, o_d ^ 1, o_d % 2 == 0
        else:
            m_left = o_d < half
            o_angle, o_other = tl.where(m_left, o_d, o_d - half), tl.where(m_left, o_d + half, o_d - half)
        b_cos = tl.load(p_table + o_angle, mask=m_turned, other=1.0).to(b_x.dtype).to(tl.float32)
        b_sin = tl.load(p_table + half + o_angle, mask=m_turned, other=0.0).to(b_x.dtype).to(tl.float32)
        b_other = tl.load(p_row + o_other[None, :], mask=m_x & m_turned[None, :], other=0.0)
        if HAS_NORM:
            b_weight = tl.load(p_weight + o_other, mask=m_turned, other=0.0)[None, :]
            b_other = normed(b_other, b_scale, b_weight, offset, HAS_OFFSET)
        b_sin = tl.where(m_left, -b_sin, b_sin)
        b_x = (b_x.to(tl.float32) * b_cos[None, :] + b_other.to(tl.float32) * b_sin[None, :]).to(b_x.dtype)
    return b_x


@triton.jit
def normed(b_x, b_scale, b_weight, offset, HAS_OFFSET: tl.constexpr):
    """Elements of heads whose inverse root mean square is b_scale, weighed."""
    b_out = b_x.to(tl.float32) * b_scale
    b_out = b_out * (b_weight.to(tl.float32) + offset) if HAS_OFFSET else b_out.to(b_x.dtype) * b_weight
    return b_out.to(b_x.dtype)
