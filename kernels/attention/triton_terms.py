"""The terms of a score in Triton: what comes between q k and the softmax, for the forward and the backward pass."""

# pyright: basic
from __future__ import annotations

import math

import triton
import triton.language as tl

from .triton_scores import bent

LOG2_E = tl.constexpr(math.log2(math.e))


@triton.jit
def scores(
    b_product, b_query, b_key, o_query, o_key, m_pair, p_bias, p_distance, s_query, s_key, slope, scale, softcap, reach,
    HAS_SOFTCAP: tl.constexpr, HAS_ALIBI: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_DISTANCE: tl.constexpr,
):  # fmt: skip
    """Of products q k, the scores in units of ln 2, and those that a softcap has bent, before what is added.

    b_query and b_key are positions, o_query and o_key places, m_pair where a place is one; all broadcast to the tile,
    which may be queries by keys or keys by queries. p_bias and p_distance are those of the head.
    """
    b_score = b_product * scale
    b_bent = b_score
    if HAS_SOFTCAP:
        b_score = bent(b_score, softcap)
        b_bent = b_score
    if HAS_ALIBI:
        b_score -= slope * tl.abs(b_query - b_key).to(tl.float32)
    if HAS_BIAS:
        b_score += tl.load(p_bias + o_query * s_query + o_key * s_key, mask=m_pair, other=0.0).to(tl.float32)
    if HAS_DISTANCE:
        b_distance = tl.minimum(tl.maximum(b_key - b_query, -reach), reach) + reach
        b_score += tl.load(p_distance + b_distance).to(tl.float32)
    return b_score * LOG2_E, b_bent
