"""The best experts of rows of logits, as device functions: scores, groups, and picks one after the other.

Of equals the lowest number is picked, as the reference does: the largest value, then the lowest place that has it.
"""

# pyright: basic
from __future__ import annotations

import triton
import triton.language as tl

from ..gpu.activations import softplus


@triton.jit
def scores_of(b_logits, m_lanes, SCORE: tl.constexpr):
    """`[N, E]` float32 -> scores of the same shape; lanes outside the mask count for nothing."""
    if SCORE == "softmax":
        b_logits = tl.where(m_lanes, b_logits, float("-inf"))
        b_exp = tl.exp(b_logits - tl.max(b_logits, 1)[:, None])
        y = b_exp / tl.sum(b_exp, 1)[:, None]
    elif SCORE == "sigmoid":
        y = tl.sigmoid(b_logits)
    elif SCORE == "sqrtsoftplus":
        y = tl.sqrt(softplus(b_logits))
    else:
        tl.static_assert(SCORE == "none", "no such score")
        y = b_logits
    return y


@triton.jit
def best_lane(b_value, m_left, LANES: tl.constexpr):
    """`[N, LANES]` -> the largest value among those left, and the lowest lane that has it: two `[N]`."""
    o_lane = tl.arange(0, LANES)
    b_value = tl.where(m_left, b_value, float("-inf"))
    b_most = tl.max(b_value, 1)
    b_lane = tl.min(tl.where(m_left & (b_value == b_most[:, None]), o_lane[None, :], LANES - 1), 1)
    return b_most, b_lane


@triton.jit
def in_best_groups(
    b_choice, m_lanes, size,
    ROWS: tl.constexpr, GROUPS: tl.constexpr, TOP_GROUPS: tl.constexpr, SUMS_TWO: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """`[ROWS, BLOCK_E]` -> the same, where the experts outside the best groups of `size` are -inf."""
    o_group, o_e = tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_E)
    b_rank = tl.zeros((ROWS, BLOCK_G), tl.float32)
    for i in range(GROUPS):
        m_mine = m_lanes & (o_e // size == i)[None, :]
        b_most, b_lane = best_lane(b_choice, m_mine, BLOCK_E)  # pyright: ignore[reportGeneralTypeIssues]
        if SUMS_TWO:
            m_next = m_mine & (o_e[None, :] != b_lane[:, None])
            b_most += best_lane(b_choice, m_next, BLOCK_E)[0]
        b_rank = tl.where((o_group == i)[None, :], b_most[:, None], b_rank)
    m_left = (o_group < GROUPS)[None, :] & (b_rank == b_rank)
    b_kept = tl.zeros((ROWS, BLOCK_E), tl.int32)
    for _ in range(TOP_GROUPS):
        _most, b_group = best_lane(b_rank, m_left, BLOCK_G)  # pyright: ignore[reportGeneralTypeIssues]
        m_left = m_left & (o_group[None, :] != b_group[:, None])
        b_kept = tl.where((o_e // size)[None, :] == b_group[:, None], 1, b_kept)
    return tl.where(b_kept == 1, b_choice, float("-inf"))


@triton.jit
def store_picks(
    b_logits, p_correction, p_weights, p_experts, i_row, m_row, E, size, scale,
    ROWS: tl.constexpr, K: tl.constexpr, SCORE: tl.constexpr, IS_OVER_CHOSEN: tl.constexpr,
    HAS_CORRECTION: tl.constexpr, NORMALISES: tl.constexpr, GROUPS: tl.constexpr, TOP_GROUPS: tl.constexpr,
    SUMS_TWO: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """The K best experts of ROWS rows of logits `[ROWS, BLOCK_E]` and their weights, written at rows `i_row`."""
    o_e, o_k = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_K)
    m_lanes = (o_e < E)[None, :] & (i_row == i_row)[:, None]
    b_scores = scores_of(b_logits, m_lanes, "none" if IS_OVER_CHOSEN else SCORE)
    b_choice = b_scores
    if HAS_CORRECTION:
        b_choice += tl.load(p_correction + o_e, mask=o_e < E, other=0.0).to(tl.float32)[None, :]
    if TOP_GROUPS < GROUPS:
        b_choice = in_best_groups(b_choice, m_lanes, size, ROWS, GROUPS, TOP_GROUPS, SUMS_TWO, BLOCK_E, BLOCK_G)
    b_weight, b_expert = tl.zeros((ROWS, BLOCK_K), tl.float32), tl.zeros((ROWS, BLOCK_K), tl.int32)
    m_left = m_lanes
    for i in range(K):
        _most, b_lane = best_lane(b_choice, m_left, BLOCK_E)  # pyright: ignore[reportGeneralTypeIssues]
        m_mine = o_e[None, :] == b_lane[:, None]
        m_left = m_left & (o_e[None, :] != b_lane[:, None])
        b_score = tl.sum(tl.where(m_mine, b_scores, 0.0), 1)
        b_weight = tl.where((o_k == i)[None, :], b_score[:, None], b_weight)
        b_expert = tl.where((o_k == i)[None, :], tl.minimum(b_lane, E - 1)[:, None], b_expert)
    m_k = (o_k < K)[None, :] & (i_row == i_row)[:, None]
    if IS_OVER_CHOSEN:
        b_weight = scores_of(b_weight, m_k, SCORE)
    if NORMALISES:
        b_weight = b_weight / (tl.sum(tl.where(m_k, b_weight, 0.0), 1) + 1e-20)[:, None]
    o_out = i_row.to(tl.int64)[:, None] * K + o_k[None, :]
    m_out = m_row[:, None] & (o_k < K)[None, :]
    tl.store(p_weights + o_out, b_weight * scale, mask=m_out)
    tl.store(p_experts + o_out, b_expert.to(tl.int64), mask=m_out)
