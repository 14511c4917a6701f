"""Device functions of attention on positions and scores: which keys a query sees, what bends or shifts a score."""

# pyright: basic
from __future__ import annotations

import triton
import triton.language as tl

NEVER = tl.constexpr(2**31 - 1)
"""A position that no token has."""


@triton.jit
def seen_range(
    b_position, window, chunk, IS_CAUSAL: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_CHUNK: tl.constexpr
):  # fmt: skip
    """The positions `[first, end)` of the keys that each query sees, int32; `[NEVER, 0)` for padding.

    It is what `reference.visible_keys` says; a key's own position must not be negative.
    """
    b_first = tl.zeros_like(b_position)
    b_end = tl.zeros_like(b_position) + NEVER
    if IS_CAUSAL:
        b_end = b_position + 1
    if HAS_WINDOW:
        b_first = tl.maximum(b_first, b_position - window + 1)
        if not IS_CAUSAL:
            b_end = b_position + window
    if HAS_CHUNK:
        b_begin = b_position // chunk * chunk
        b_first = tl.maximum(b_first, b_begin)
        b_end = tl.minimum(b_end, b_begin + chunk)
    m_padding = b_position < 0
    return tl.where(m_padding, NEVER, b_first), tl.where(m_padding, 0, b_end)


@triton.jit
def bent(b_score, softcap):
    """`softcap * tanh(score / softcap)`: by its series where that is shorter than rounding, else by exponentials."""
    b_x = b_score / softcap
    b_square = b_x * b_x
    b_series = 1.0 + b_square * (-1.0 / 3 + b_square * (2.0 / 15 + b_square * (-17.0 / 315 + b_square * (62.0 / 2835))))
    b_exp = tl.exp(-2.0 * tl.abs(b_x))
    b_far = (1.0 - b_exp) / (1.0 + b_exp)
    return tl.where(b_square < 0.06, b_score * b_series, softcap * tl.where(b_x < 0, -b_far, b_far))


@triton.jit
def join(b_out, b_top, b_sum, b_score, b_value):
    """A running softmax `(sum of weighed values [M, V], largest score [M], sum of weights [M])` with more keys.

    b_score `[M, N]` in units of ln 2, -inf where a key is not seen; b_value `[N, V]`, in whose dtype weights are taken.
    """
    b_new = tl.maximum(b_top, tl.max(b_score, 1))
    b_base = tl.where(b_new == float("-inf"), 0.0, b_new)
    b_weight = tl.exp2(b_score - b_base[:, None])
    b_keep = tl.exp2(b_top - b_base)
    b_sum = b_sum * b_keep + tl.sum(b_weight, 1)
    b_more = tl.dot(b_weight.to(b_value.dtype), b_value, input_precision="ieee")
    return b_out * b_keep[:, None] + b_more, b_new, b_sum


@triton.jit
def alibi_slope(b_head, power):
    """`reference.alibi_slopes`, each at its head. power: the largest power of two that is not above the heads."""
    b_exact = (b_head + 1) * 8.0 / power
    b_between = (2 * (b_head - power) + 1) * 4.0 / power
    return tl.exp2(-tl.where(b_head < power, b_exact, b_between))
