"""The gradient of inner units, and from it, tile by tile, all that follows before the next product (Triton).

The first of the products behind experts: gradients of outputs, gathered, times down. In its tiles the activation is
computed again from what the forward pass kept, with its slope; nothing else of inner units is read.
"""

# pyright: basic
from __future__ import annotations

import triton
import triton.language as tl

from ..gpu.activations import activate, slope
from ..gpu.tuning import Config, Key, Tunable
from .triton_experts_grouped import halves


@triton.jit
def _unit_gradients(
    b_grad, b_share, p_kept, p_hidden, p_inner, first_n, m_m, F, limit, up_offset,
    KIND: tl.constexpr, IS_GATED: tl.constexpr, IS_INTERLEAVED: tl.constexpr, HAS_LIMIT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """BLOCK_N inner units from `first_n` on, pointers at the tile's first row -> `[BLOCK_M]`, what weights get of them.

    Writes weighed inner units and the gradients of what made them.
    """
    dtype = p_inner.dtype.element_ty
    wide = 2 * F if IS_GATED else F
    o_n, o_both = first_n + tl.arange(0, BLOCK_N), 2 * first_n + tl.arange(0, 2 * BLOCK_N)
    o_row = tl.arange(0, BLOCK_M)[:, None]
    m_unit, m_pair = m_m[:, None] & (o_n < F)[None, :], m_m[:, None] & (o_both < wide)[None, :]
    o_unit, o_pair = o_row * wide + o_n[None, :], o_row * wide + o_both[None, :]
    b_gate = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if IS_INTERLEAVED:
        b_both = tl.load(p_kept + o_pair, mask=m_pair, other=0.0)
        b_gate, b_up = tl.split(tl.reshape(b_both.to(tl.float32), (BLOCK_M, BLOCK_N, 2)))
    elif IS_GATED:
        b_gate = tl.load(p_kept + o_unit, mask=m_unit, other=0.0).to(tl.float32)
        b_up = tl.load(p_kept + o_unit + F, mask=m_unit, other=0.0).to(tl.float32)
    else:
        b_up = tl.load(p_kept + o_unit, mask=m_unit, other=0.0).to(tl.float32)
    m_up, m_gate = m_unit, m_unit
    if HAS_LIMIT:
        m_up, m_gate = (b_up >= -limit) & (b_up <= limit), b_gate <= limit
        b_up, b_gate = tl.minimum(tl.maximum(b_up, -limit), limit), tl.minimum(b_gate, limit)
    if IS_GATED:
        b_times, b_active = b_up + up_offset, activate(b_gate, KIND)
        b_hidden = b_active * b_times
    else:
        b_hidden = activate(b_up, KIND)
    b_sum = tl.sum(b_grad * b_hidden, 1)
    b_grad = b_grad * b_share[:, None]
    tl.store(p_hidden + o_row * F + o_n[None, :], (b_hidden * b_share[:, None]).to(dtype), mask=m_unit)
    if IS_GATED:
        b_up, b_gate = b_grad * b_active, b_grad * b_times * slope(b_gate, KIND)
    else:
        b_up = b_grad * slope(b_up, KIND)
    if HAS_LIMIT:
        b_up, b_gate = tl.where(m_up, b_up, 0.0), tl.where(m_gate, b_gate, 0.0)
    if IS_INTERLEAVED:
        tl.store(p_inner + o_pair, tl.interleave(b_gate, b_up).to(dtype), mask=m_pair)
    elif IS_GATED:
        tl.store(p_inner + o_unit, b_gate.to(dtype), mask=m_unit)
        tl.store(p_inner + o_unit + F, b_up.to(dtype), mask=m_unit)
    else:
        tl.store(p_inner + o_unit, b_up.to(dtype), mask=m_unit)
    return b_sum


@triton.jit
def inner_gradients(
    p_grad, p_weights, p_slots, p_starts, p_tiles, p_count, p_down, p_kept, p_hidden, p_inner, p_shares,
    M, F, slots, s_expert, s_out, s_in, limit, up_offset,
    K: tl.constexpr, KIND: tl.constexpr, IS_GATED: tl.constexpr, IS_INTERLEAVED: tl.constexpr,
    HAS_LIMIT: tl.constexpr, WEIGHS_INPUT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, IN_QUARTERS: tl.constexpr,
):  # fmt: skip
    """Of tiles: gathered gradients times down, then all that is done with inner units.

    IN_QUARTERS does that with a quarter of them at a time, for want of registers. Of what each pick's weight gets,
    `p_shares` takes a part a tile.
    """
    HALF: tl.constexpr = BLOCK_N // 2  # pyright: ignore[reportAssignmentType]
    QUARTER: tl.constexpr = BLOCK_N // 4  # pyright: ignore[reportAssignmentType]
    wide = 2 * F if IS_GATED else F
    tiles_n = tl.cdiv(F, BLOCK_N)
    for i_tile in range(tl.program_id(0), tl.load(p_count) * tiles_n, tl.num_programs(0)):
        expert, first = tl.load(p_tiles + i_tile // tiles_n * 2), tl.load(p_tiles + i_tile // tiles_n * 2 + 1)
        i_n = i_tile % tiles_n
        o_m = first + tl.arange(0, BLOCK_M)
        m_m = o_m < tl.load(p_starts + expert + 1)
        b_slot = tl.load(p_slots + o_m, mask=m_m, other=0)
        o_n, o_k = i_n * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
        m_n = o_n < F
        p_row = p_grad + (b_slot // K).to(tl.int64)[:, None] * M + o_k[None, :]
        p_weight = p_down + expert.to(tl.int64) * s_expert + o_k[:, None] * s_out + o_n[None, :] * s_in
        b_grad = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for start in range(0, M, BLOCK_K):
            m_k = start + o_k < M
            b_row = tl.load(p_row + start, mask=m_m[:, None] & m_k[None, :], other=0.0)
            b_weight = tl.load(p_weight + start * s_out, mask=m_k[:, None] & m_n[None, :], other=0.0)
            b_grad = tl.dot(b_row, b_weight, b_grad, input_precision="ieee")
        b_share = tl.full((BLOCK_M,), 1.0, tl.float32)
        if not WEIGHS_INPUT:
            b_share = tl.load(p_weights + b_slot, mask=m_m, other=0.0).to(tl.float32)
        first_row = first.to(tl.int64)
        p_keep, p_units, p_slopes = p_kept + first_row * wide, p_hidden + first_row * F, p_inner + first_row * wide
        if IN_QUARTERS:
            b_left, b_right = halves(b_grad, BLOCK_M, BLOCK_N)
            b_sum = tl.zeros((BLOCK_M,), tl.float32)
            for i in tl.static_range(4):  # pyright: ignore[reportGeneralTypeIssues]
                b_quarter = halves(b_left if i < 2 else b_right, BLOCK_M, HALF)[i % 2]
                b_sum += _unit_gradients(
                    b_quarter, b_share, p_keep, p_units, p_slopes, i_n * BLOCK_N + i * QUARTER, m_m, F, limit,
                    up_offset, KIND, IS_GATED, IS_INTERLEAVED, HAS_LIMIT, BLOCK_M, QUARTER,
                )  # fmt: skip
        else:
            b_sum = _unit_gradients(
                b_grad, b_share, p_keep, p_units, p_slopes, i_n * BLOCK_N, m_m, F, limit, up_offset, KIND, IS_GATED,
                IS_INTERLEAVED, HAS_LIMIT, BLOCK_M, BLOCK_N,
            )  # fmt: skip
        if not WEIGHS_INPUT:
            tl.store(p_shares + i_n.to(tl.int64) * slots + o_m, b_sum, mask=m_m)


def _rule_of_inner(key: Key) -> Config:
    """As the forward pass, but 128 inner units at most, for gate, up and their gradients lie beside them."""
    if key["dtype"] == "float32":
        return {"BLOCK_N": 32, "BLOCK_K": 32, "IN_QUARTERS": 0, "num_warps": 4, "num_stages": 2}
    is_tall = int(key["rows"]) >= 128
    return {
        "BLOCK_N": 128,
        "BLOCK_K": 64,
        "IN_QUARTERS": int(int(key["rows"]) >= 64),
        "num_warps": 8 if is_tall else 4,
        "num_stages": 3 if is_tall else 4,
    }


def _space_of_inner(key: Key) -> tuple[Config, ...]:
    return tuple(
        {"BLOCK_N": n, "BLOCK_K": k, "IN_QUARTERS": quarters, "num_warps": warps, "num_stages": stages}
        for n in (64, 128)
        for k in (32, 64)
        for quarters in (0, 1)
        for warps in (4, 8)
        for stages in (3, 4)
    )


INNER = Tunable(name="experts_backward_inner", rule=_rule_of_inner, space=_space_of_inner)
