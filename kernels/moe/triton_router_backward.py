"""The gradients of routers in Triton: of logits from the picks that were made, then of tokens and of the weight.

Which experts are picked has no gradient, hence the correction has none. Sums over tokens are parted among programs and
the parts added in order, so that they are the same each time. Bound by the bytes of x, twice: the products are few.
"""

# pyright: basic
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.op import launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..gpu.tuning import Config, Key, Tunable
from .triton_choose import scores_of

HELD = 4096
"""Logits that one program holds."""
PARTED = 512
"""Tokens that a part of the sums over them has at least."""
MOST_PARTS = 64


@triton.jit
def _behind_scores(b_grad, b_score, b_logit, m_lanes, SCORE: tl.constexpr):
    """The gradient of scores `[N, L]` -> that of their logits."""
    b_grad = tl.where(m_lanes, b_grad, 0.0)
    if SCORE == "softmax":
        y = b_score * (b_grad - tl.sum(b_grad * b_score, 1)[:, None])
    elif SCORE == "sigmoid":
        y = b_grad * b_score * (1.0 - b_score)
    elif SCORE == "sqrtsoftplus":
        y = tl.where(b_score > 0.0, b_grad * tl.sigmoid(b_logit) / (2.0 * tl.where(b_score > 0.0, b_score, 1.0)), 0.0)
    else:
        tl.static_assert(SCORE == "none", "no such score")
        y = b_grad
    return y


@triton.jit
def _of_logits(
    p_logits, p_experts, p_grad, p_grad_logits, p_out, tokens, E, scale,
    K: tl.constexpr, SCORE: tl.constexpr, IS_OVER_CHOSEN: tl.constexpr, NORMALISES: tl.constexpr,
    HAS_GRAD_LOGITS: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Of ROWS tokens: from the gradients of weights `[N, K]`, through norm and scores, and those of logits added."""
    OVER_ALL: tl.constexpr = "none" if IS_OVER_CHOSEN else SCORE  # pyright: ignore[reportAssignmentType]
    o_e, o_k = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_K)
    o_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    m_row = o_row < tokens
    m_lanes, m_k = m_row[:, None] & (o_e < E)[None, :], m_row[:, None] & (o_k < K)[None, :]
    o_logit, o_pick = o_row[:, None] * E + o_e[None, :], o_row[:, None] * K + o_k[None, :]
    b_logits = tl.load(p_logits + o_logit, mask=m_lanes, other=0.0)
    b_pick = tl.load(p_experts + o_pick, mask=m_k, other=-1).to(tl.int32)
    b_grad = tl.load(p_grad + o_pick, mask=m_k, other=0.0).to(tl.float32) * scale
    b_scores = scores_of(b_logits, (o_e < E)[None, :] & (o_row == o_row)[:, None], OVER_ALL)
    b_chosen = tl.zeros((ROWS, BLOCK_K), tl.float32)
    for i in range(K):
        b_lane = tl.sum(tl.where((o_k == i)[None, :], b_pick, 0), 1)
        b_score = tl.sum(tl.where(o_e[None, :] == b_lane[:, None], b_scores, 0.0), 1)
        b_chosen = tl.where((o_k == i)[None, :], b_score[:, None], b_chosen)
    b_weight = b_chosen
    if IS_OVER_CHOSEN:
        b_weight = scores_of(b_chosen, (o_k < K)[None, :] & (o_row == o_row)[:, None], SCORE)
    if NORMALISES:
        b_total = tl.sum(tl.where(m_k, b_weight, 0.0), 1)[:, None] + 1e-20
        b_mean = tl.sum(tl.where(m_k, b_grad * b_weight, 0.0), 1)[:, None] / b_total
        b_grad = (b_grad - b_mean) / b_total
    if IS_OVER_CHOSEN:
        b_grad = _behind_scores(b_grad, b_weight, b_chosen, m_k, SCORE)
    b_spread = tl.zeros((ROWS, BLOCK_E), tl.float32)
    for i in range(K):
        b_lane = tl.sum(tl.where((o_k == i)[None, :], b_pick, 0), 1)
        b_one = tl.sum(tl.where((o_k == i)[None, :], b_grad, 0.0), 1)
        b_spread = tl.where(o_e[None, :] == b_lane[:, None], b_one[:, None], b_spread)
    b_out = _behind_scores(b_spread, b_scores, b_logits, m_lanes, OVER_ALL)
    if HAS_GRAD_LOGITS:
        b_out += tl.load(p_grad_logits + o_logit, mask=m_lanes, other=0.0).to(tl.float32)
    tl.store(p_out + o_logit, b_out, mask=m_lanes)


@triton.jit
def _product(
    p_a, p_b, p_out, high, wide, deep, steps, s_am, s_ak, s_bk,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`[high, deep]` float32 times `[deep, wide]`, the part `i_part` of its sums: `steps` blocks of their depth."""
    i_part = tl.program_id(2)
    o_m, o_n = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    o_k = tl.arange(0, BLOCK_K)
    m_m, m_n = o_m < high, o_n < wide
    first = i_part * steps * BLOCK_K
    last = tl.minimum(first + steps * BLOCK_K, deep)
    b_out = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(first, last, BLOCK_K):
        o_deep = (start + o_k).to(tl.int64)
        m_k = o_deep < last
        p_left = p_a + o_m.to(tl.int64)[:, None] * s_am + o_deep[None, :] * s_ak
        b_a = tl.load(p_left, mask=m_m[:, None] & m_k[None, :], other=0.0)
        b_b = tl.load(p_b + o_deep[:, None] * s_bk + o_n[None, :], mask=m_k[:, None] & m_n[None, :], other=0.0)
        b_out = tl.dot(b_a, b_b.to(tl.float32), b_out, input_precision=PRECISION)
    p_store = p_out + (i_part * high + o_m).to(tl.int64)[:, None] * wide + o_n[None, :]
    tl.store(p_store, b_out.to(p_out.dtype.element_ty), mask=m_m[:, None] & m_n[None, :])


def _rule(key: Key) -> Config:
    return {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 3}


def _space(key: Key) -> tuple[Config, ...]:
    return tuple(
        {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "num_warps": warps, "num_stages": stages}
        for m in (32, 64, 128)
        for n in (64, 128)
        for k in (16, 32)
        for warps in (4, 8)
        for stages in (2, 3)
    )


PRODUCTS = Tunable(name="router_backward", rule=_rule, space=_space)
TUNABLES = (PRODUCTS,)


def launch(
    grad: Tensor | None, grad_logits: Tensor | None, x: Tensor, weight: Tensor, experts: Tensor, logits: Tensor,
    score: str, is_over_chosen: bool, normalises: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Of x, of weight and of the bias `[E]`; grad `[..., K]` that of the weights, where either may be absent."""
    x, weight, logits, experts = x.contiguous(), weight.contiguous(), logits.contiguous(), experts.contiguous()
    found = empty(grad, grad_logits, x, weight, experts, logits, score, is_over_chosen, normalises, scale)
    count, width, picks = *weight.shape, experts.shape[-1]
    tokens = x.numel() // width
    if not tokens:
        return found[0], found[1].zero_(), found[2].zero_()
    of_logits = torch.empty_like(logits)
    grad = torch.zeros_like(experts, dtype=torch.float32) if grad is None else grad.contiguous()
    block_e = power_of_2(count)
    rows = max(1, min(HELD // block_e, power_of_2(tokens) // 256))
    launchable(_of_logits)[(ceil_div(tokens, rows),)](
        logits, experts, grad, None if grad_logits is None else grad_logits.contiguous(), of_logits, tokens, count,
        scale, K=picks, SCORE=score, IS_OVER_CHOSEN=is_over_chosen, NORMALISES=normalises,
        HAS_GRAD_LOGITS=grad_logits is not None, BLOCK_E=block_e, BLOCK_K=power_of_2(picks), ROWS=rows,
    )  # fmt: skip
    _multiply(of_logits, weight, found[0].view(1, tokens, width), (count, 1))
    parts = max(1, min(MOST_PARTS, tokens // PARTED))
    of_weight = weight.new_empty((parts, count, width), dtype=torch.float32)
    _multiply(of_logits, x, of_weight, (1, count))
    return found[0], of_weight.sum(0).to(weight.dtype), of_logits.view(tokens, count).sum(0)


def _multiply(a: Tensor, b: Tensor, out: Tensor, strides: tuple[int, int]) -> None:
    """Into out `[parts, high, wide]`: a, with these strides, times b `[deep, wide]`."""
    parts, high, wide = out.shape
    deep, dtype = b.numel() // wide, str(b.dtype).removeprefix("torch.")
    config = PRODUCTS.config({"high": min(4096, power_of_2(high)), "wide": wide, "parts": parts, "dtype": dtype})
    steps = ceil_div(ceil_div(deep, config["BLOCK_K"]), parts)
    launchable(_product)[(ceil_div(high, config["BLOCK_M"]), ceil_div(wide, config["BLOCK_N"]), parts)](
        a, b, out, high, wide, deep, steps, *strides, wide,
        PRECISION="ieee" if b.dtype == torch.float32 else "tf32x3", **config,
    )  # fmt: skip


def empty(
    grad: Tensor | None, grad_logits: Tensor | None, x: Tensor, weight: Tensor, experts: Tensor, logits: Tensor,
    score: str, is_over_chosen: bool, normalises: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """What `launch` fills."""
    return x.new_empty(x.shape), weight.new_empty(weight.shape), logits.new_empty(weight.shape[0])
