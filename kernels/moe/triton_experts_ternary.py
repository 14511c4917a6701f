"""Ternary experts for few tokens in Triton: what differs from other packed ones, products in whole numbers of 8 bits.

Every program rounds the rows that it multiplies for itself, as in a ternary layer (`ternary.triton_vector`), while its
tile of weights is on its way: a token's row for inner units; for outputs the inner units of several of its picks side
by side, so that a token's picks are not a chain of loads.
"""

# pyright: basic
from __future__ import annotations

import triton
import triton.language as tl

from ..gpu.bytes import dot4
from ..gpu.sizes import ceil_div, power_of_2
from ..gpu.tuning import Config, Key, Tunable
from ..norm.triton_quantise import factor_of, whole_product

WIDEST = 32768
"""Features of a row that a program holds: 64 a thread, of at most 512 threads."""
_FIELD = tl.constexpr(0x03030303)


@triton.jit
def _bytes(b_x, b_factor):
    """Rows `[P, WORDS, 4]` float32 -> whole numbers as bytes of words `[P, WORDS]` int32, and their sums `[P]`."""
    b_whole = whole_product(b_x, b_factor[:, None, None])
    b_words = tl.sum((b_whole & 0xFF) << (8 * tl.arange(0, 4))[None, None, :], 2)
    return b_words, tl.sum(tl.sum(b_whole, 2), 1)


@triton.jit
def whole_rows(p_rows, m_row, width, words, WORDS: tl.constexpr):
    """The rows of `width` numbers at pointers `[P]`: their quarters in whole numbers, four a word, `[P, WORDS]` each;
    what they were multiplied by, and their sums, `[P]`."""
    o_word = tl.arange(0, WORDS)
    o_0 = 4 * o_word[:, None] + tl.arange(0, 4)[None, :]
    o_1, o_2, o_3 = o_0 + 4 * words, o_0 + 8 * words, o_0 + 12 * words
    m_x = m_row[:, None, None] & (o_word < words)[None, :, None]
    p_x = p_rows[:, None, None]
    b_0 = tl.load(p_x + o_0[None, :, :], mask=m_x & (o_0 < width)[None, :, :], other=0.0).to(tl.float32)
    b_1 = tl.load(p_x + o_1[None, :, :], mask=m_x & (o_1 < width)[None, :, :], other=0.0).to(tl.float32)
    b_2 = tl.load(p_x + o_2[None, :, :], mask=m_x & (o_2 < width)[None, :, :], other=0.0).to(tl.float32)
    b_3 = tl.load(p_x + o_3[None, :, :], mask=m_x & (o_3 < width)[None, :, :], other=0.0).to(tl.float32)
    b_largest = tl.maximum(tl.maximum(tl.abs(b_0), tl.abs(b_1)), tl.maximum(tl.abs(b_2), tl.abs(b_3)))
    b_nothing = b_0 * 0.0 + b_1 * 0.0 + (b_2 * 0.0 + b_3 * 0.0)
    b_factor = factor_of(tl.max(tl.max(b_largest, 2), 1), tl.sum(tl.sum(b_nothing, 2), 1), 127)
    b_0, b_count0 = _bytes(b_0, b_factor)  # pyright: ignore[reportGeneralTypeIssues]
    b_1, b_count1 = _bytes(b_1, b_factor)  # pyright: ignore[reportGeneralTypeIssues]
    b_2, b_count2 = _bytes(b_2, b_factor)  # pyright: ignore[reportGeneralTypeIssues]
    b_3, b_count3 = _bytes(b_3, b_factor)  # pyright: ignore[reportGeneralTypeIssues]
    return b_0, b_1, b_2, b_3, b_factor, b_count0 + b_count1 + (b_count2 + b_count3)


@triton.jit
def rows_of_2(p_stack, p_scales, b_expert, rows, o_row, m_row, words, WORDS: tl.constexpr):
    """Rows of experts' ternary matrices, of `rows` rows each: words `[OUT, P, WORDS]`, scales `[OUT, P]`. b_expert
    `[P]`, o_row `[OUT]`, m_row `[OUT, P]`."""
    o_word = tl.arange(0, WORDS)
    o_matrix = (b_expert * rows * (words + 1))[None, :]
    o_words = o_matrix + (o_row * words)[:, None]
    m_words = m_row[:, :, None] & (o_word < words)[None, None, :]
    b_words = tl.load(p_stack + o_words[:, :, None] + o_word[None, None, :], mask=m_words, other=0)
    return b_words, tl.load(p_scales + o_matrix + (rows * words + o_row)[:, None], mask=m_row, other=0.0)


@triton.jit
def products_of_2(b_words, b_scale, b_0, b_1, b_2, b_3, b_factor, b_count):
    """What `rows_of_2` gives, times what `whole_rows` does: `[OUT, P]`."""
    b_sum = dot4(b_words & _FIELD, b_0[None, :, :], tl.zeros(b_words.shape, tl.int32))
    b_sum = dot4((b_words >> 2) & _FIELD, b_1[None, :, :], b_sum)
    b_sum = dot4((b_words >> 4) & _FIELD, b_2[None, :, :], b_sum)
    b_sum = dot4((b_words >> 6) & _FIELD, b_3[None, :, :], b_sum)
    return (tl.sum(b_sum, 2) - b_count[None, :]).to(tl.float32) * (b_scale / b_factor[None, :])


@triton.jit
def units_of_2(
    p_row, p_gate, p_gate_scales, p_up, p_up_scales, expert, rows, o_gate, o_up, m_row, width, words,
    TWO: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    """Some rows of one or two matrices of one expert times the row at `p_row`: `[OUT]` each."""
    b_expert, m_rows = tl.zeros((1,), tl.int64) + expert, m_row[:, None]
    b_up, b_up_scale = rows_of_2(p_up, p_up_scales, b_expert, rows, o_up, m_rows, words, WORDS)
    b_gate, b_gate_scale = b_up, b_up_scale
    if TWO:
        b_gate, b_gate_scale = rows_of_2(p_gate, p_gate_scales, b_expert, rows, o_gate, m_rows, words, WORDS)
    p_rows = p_row + tl.zeros((1,), tl.int64)
    b_0, b_1, b_2, b_3, b_factor, b_count = whole_rows(p_rows, b_expert >= 0, width, words, WORDS)
    b_units = products_of_2(b_up, b_up_scale, b_0, b_1, b_2, b_3, b_factor, b_count)
    b_gates = b_units
    if TWO:
        b_gates = products_of_2(b_gate, b_gate_scale, b_0, b_1, b_2, b_3, b_factor, b_count)
    return tl.sum(b_gates, 1), tl.sum(b_units, 1)


@triton.jit
def outputs_of_2(
    p_hidden, p_weights, p_experts, p_order, p_down, p_scales, p_bias, p_out, M, F, words,
    K: tl.constexpr, HAS_BIAS: tl.constexpr, WEIGHS_OUTPUT: tl.constexpr,
    BLOCK_OUT: tl.constexpr, PICKS: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    """BLOCK_OUT outputs of one token, of PICKS of its picks at once, in order of experts."""
    i_token, o_pick = tl.program_id(0).to(tl.int64), tl.arange(0, PICKS)
    o_out = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    b_out = tl.zeros((BLOCK_OUT,), tl.float32)
    for first in range(0, K, PICKS):
        m_pick = first + o_pick < K
        b_pair = i_token * K + tl.load(p_order + i_token * K + first + o_pick, mask=m_pick, other=0)
        b_expert = tl.load(p_experts + b_pair, mask=m_pick, other=0)
        m_row = (o_out < M)[:, None] & m_pick[None, :]
        b_words, b_scale = rows_of_2(p_down, p_scales, b_expert, M, o_out, m_row, words, WORDS)
        b_0, b_1, b_2, b_3, b_factor, b_count = whole_rows(p_hidden + b_pair * F, m_pick, F, words, WORDS)
        b_part = products_of_2(b_words, b_scale, b_0, b_1, b_2, b_3, b_factor, b_count)
        if HAS_BIAS:
            p_biases = p_bias + (b_expert * M)[None, :] + o_out[:, None]
            b_part += tl.load(p_biases, mask=m_row, other=0.0).to(tl.float32)
        if WEIGHS_OUTPUT:
            b_part *= tl.load(p_weights + b_pair, mask=m_pick, other=0.0).to(tl.float32)[None, :]
        b_out += tl.sum(tl.where(m_row, b_part, 0.0), 1)
    tl.store(p_out + i_token * M + o_out, b_out.to(p_out.dtype.element_ty), mask=o_out < M)


def inner_rule(key: Key) -> Config:
    """64 features a thread, and 16 words of each matrix."""
    words = power_of_2(ceil_div(int(key["size"]), 4))
    warps = min(16, max(4, words // 128))
    return {"BLOCK_OUT": max(1, 32 * warps * 16 // words), "BLOCK_IN": words, "num_warps": warps}


def inner_space(key: Key) -> tuple[Config, ...]:
    words = power_of_2(ceil_div(int(key["size"]), 4))
    return tuple(
        {"BLOCK_OUT": rows, "BLOCK_IN": words, "num_warps": warps}
        for rows in (2, 4, 8, 16, 32)
        for warps in (2, 4, 8, 16)
        if rows * words <= 64 * 32 * warps and words <= 256 * warps
    )


def _rule(key: Key) -> Config:
    """As many picks at once as threads hold at 64 features each, and 32 words of weights a thread."""
    words, picks = power_of_2(ceil_div(int(key["size"]), 4)), power_of_2(int(key["picks"]))
    held = max(1, min(picks, 1024 // words))
    warps = min(16, max(4, held * words // 128))
    return {"BLOCK_OUT": max(1, 32 * warps * 32 // (held * words)), "PICKS": held, "num_warps": warps}


def _space(key: Key) -> tuple[Config, ...]:
    words, picks = power_of_2(ceil_div(int(key["size"]), 4)), power_of_2(int(key["picks"]))
    return tuple(
        {"BLOCK_OUT": rows, "PICKS": held, "num_warps": warps}
        for rows in (2, 4, 8, 16)
        for held in (1, 2, 4, 8)
        for warps in (2, 4, 8, 16)
        if held <= picks and rows * held * words <= 64 * 32 * warps and held * words <= 256 * warps
    )


OUTPUTS = Tunable(name="experts_ternary_outputs", rule=_rule, space=_space)
TUNABLES = (OUTPUTS,)
