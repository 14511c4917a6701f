"""Routers in Triton: the logits of all experts in float32, then the best of them, in one launch where that pays.

Floor: the bytes of the weight for few tokens, those of x for many. One launch holds a token's logits in one program,
which one multiprocessor feeds: worth it up to `AT_ONCE` weights; beyond that the logits are spread over programs, and
a second launch picks.
"""

# pyright: basic
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.gradients import register_gradients
from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..gpu.tuning import Config, Key, Tunable
from ..kernel import Request
from . import reference, triton_router_backward
from .reference import GroupScore, ScoreKind
from .triton_choose import store_picks

MOST_EXPERTS = 1024
AT_ONCE = 1 << 17
"""Weights up to which one program reads all of them: 256 KiB in bfloat16, some 2 microseconds."""
FEW = 16
"""Tokens up to which each reads the weights for itself, from the second on out of the cache."""
HELD = 4096
"""Logits that one program picks from."""
PICKERS = 256
"""Programs that pick, before one picks for several tokens."""


def serves(request: Request) -> str | None:
    """None, or why the router cannot run."""
    if request.dtype == "float64":
        return "sums are float32"
    experts = request.fields["num_experts"]
    if isinstance(experts, int) and experts > MOST_EXPERTS:
        return f"a program picks from at most {MOST_EXPERTS} experts, not {experts}"
    return None


@triton.jit
def _whole(
    p_x, p_weight, p_bias, p_correction, p_weights, p_experts, p_logits, M, E, size, scale,
    HAS_BIAS: tl.constexpr, K: tl.constexpr, SCORE: tl.constexpr, IS_OVER_CHOSEN: tl.constexpr,
    HAS_CORRECTION: tl.constexpr, NORMALISES: tl.constexpr, GROUPS: tl.constexpr, TOP_GROUPS: tl.constexpr,
    SUMS_TWO: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_G: tl.constexpr,
    BLOCK_IN: tl.constexpr,
):  # fmt: skip
    """One token: its logits and its picks."""
    i_row = tl.program_id(0) + tl.zeros((1,), tl.int32)
    o_e, o_in = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_IN)
    o_weight = o_e[:, None] * M + o_in[None, :]
    p_x += tl.program_id(0).to(tl.int64) * M
    b_sums = tl.zeros((BLOCK_E, BLOCK_IN), tl.float32)
    for start in range(0, M, BLOCK_IN):
        m_in = start + o_in < M
        b_x = tl.load(p_x + start + o_in, mask=m_in, other=0.0).to(tl.float32)
        b_weight = tl.load(p_weight + o_weight + start, mask=(o_e < E)[:, None] & m_in[None, :], other=0.0)
        b_sums += b_weight.to(tl.float32) * b_x[None, :]
    b_logits = tl.sum(b_sums, 1)
    if HAS_BIAS:
        b_logits += tl.load(p_bias + o_e, mask=o_e < E, other=0.0).to(tl.float32)
    tl.store(p_logits + tl.program_id(0).to(tl.int64) * E + o_e, b_logits, mask=o_e < E)
    store_picks(
        b_logits[None, :], p_correction, p_weights, p_experts, i_row, i_row >= 0, E, size, scale, 1, K, SCORE,
        IS_OVER_CHOSEN, HAS_CORRECTION, NORMALISES, GROUPS, TOP_GROUPS, SUMS_TWO, BLOCK_E, BLOCK_K, BLOCK_G,
    )  # fmt: skip


@triton.jit
def _logits_of_few(
    p_x, p_weight, p_bias, p_logits, M, E, HAS_BIAS: tl.constexpr, BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr
):
    """BLOCK_OUT logits of one token."""
    i_token = tl.program_id(0).to(tl.int64)
    o_e, o_in = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT), tl.arange(0, BLOCK_IN)
    o_weight = o_e[:, None] * M + o_in[None, :]
    b_sums = tl.zeros((BLOCK_OUT, BLOCK_IN), tl.float32)
    for start in range(0, M, BLOCK_IN):
        m_in = start + o_in < M
        b_x = tl.load(p_x + i_token * M + start + o_in, mask=m_in, other=0.0).to(tl.float32)
        b_weight = tl.load(p_weight + o_weight + start, mask=(o_e < E)[:, None] & m_in[None, :], other=0.0)
        b_sums += b_weight.to(tl.float32) * b_x[None, :]
    b_logits = tl.sum(b_sums, 1)
    if HAS_BIAS:
        b_logits += tl.load(p_bias + o_e, mask=o_e < E, other=0.0).to(tl.float32)
    tl.store(p_logits + i_token * E + o_e, b_logits, mask=o_e < E)


@triton.jit
def _logits_of_many(
    p_x, p_weight, p_bias, p_logits, tokens, M, E,
    HAS_BIAS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    o_m, o_e = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    o_k, m_m, m_e = tl.arange(0, BLOCK_K), o_m < tokens, o_e < E
    p_row = p_x + o_m.to(tl.int64)[:, None] * M + o_k[None, :]
    p_column = p_weight + o_e[None, :] * M + o_k[:, None]
    b_logits = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, M, BLOCK_K):
        m_k = start + o_k < M
        b_x = tl.load(p_row + start, mask=m_m[:, None] & m_k[None, :], other=0.0)
        b_weight = tl.load(p_column + start, mask=m_k[:, None] & m_e[None, :], other=0.0)
        b_logits = tl.dot(b_x, b_weight, b_logits, input_precision="ieee")
    if HAS_BIAS:
        b_logits += tl.load(p_bias + o_e, mask=m_e, other=0.0).to(tl.float32)[None, :]
    tl.store(p_logits + o_m.to(tl.int64)[:, None] * E + o_e[None, :], b_logits, mask=m_m[:, None] & m_e[None, :])


@triton.jit
def _pick(
    p_logits, p_correction, p_weights, p_experts, tokens, E, size, scale,
    K: tl.constexpr, SCORE: tl.constexpr, IS_OVER_CHOSEN: tl.constexpr, HAS_CORRECTION: tl.constexpr,
    NORMALISES: tl.constexpr, GROUPS: tl.constexpr, TOP_GROUPS: tl.constexpr, SUMS_TWO: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_G: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    i_row, o_e = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK_E)
    m_row = i_row < tokens
    o_logit = i_row.to(tl.int64)[:, None] * E + o_e[None, :]
    b_logits = tl.load(p_logits + o_logit, mask=m_row[:, None] & (o_e < E)[None, :], other=0.0)
    store_picks(
        b_logits, p_correction, p_weights, p_experts, i_row, m_row, E, size, scale, ROWS, K, SCORE,
        IS_OVER_CHOSEN, HAS_CORRECTION, NORMALISES, GROUPS, TOP_GROUPS, SUMS_TWO, BLOCK_E, BLOCK_K, BLOCK_G,
    )  # fmt: skip


def _rule(key: Key) -> Config:
    """Few tokens: narrow tiles, so that all multiprocessors read weights. Many: all experts beside 64 tokens."""
    experts = max(16, power_of_2(int(key["experts"])))
    if int(key["tokens"]) <= 512:
        return {"BLOCK_M": 16, "BLOCK_N": 16, "BLOCK_K": 128, "num_warps": 2, "num_stages": 4}
    depth = 32 if key["dtype"] == "float32" else 64
    return {"BLOCK_M": 64, "BLOCK_N": min(128, experts), "BLOCK_K": depth, "num_warps": 4, "num_stages": 3}


def _space(key: Key) -> tuple[Config, ...]:
    return tuple(
        {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "num_warps": warps, "num_stages": stages}
        for m in (16, 64, 128)
        for n in (16, 64, 128)
        for k in (64, 128)
        for warps in (2, 4)
        for stages in (3, 4)
    )


LOGITS = Tunable(name="router_logits", rule=_rule, space=_space)
TUNABLES = (LOGITS,)


def _launch(
    x: Tensor, weight: Tensor, bias: Tensor | None, correction: Tensor | None, top_k: int, score: str,
    is_over_chosen: bool, normalises: bool, scale: float, num_groups: int, top_groups: int, sums_two: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    x, weight = x.contiguous(), weight.contiguous()
    weights, experts, logits = _fake(
        x, weight, bias, correction, top_k, score, is_over_chosen, normalises, scale, num_groups, top_groups, sums_two
    )
    count, width = weight.shape
    tokens = x.numel() // width
    if not tokens:
        return weights, experts, logits
    block_e = power_of_2(count)
    rule = {
        "K": top_k, "SCORE": score, "IS_OVER_CHOSEN": is_over_chosen, "HAS_CORRECTION": correction is not None,
        "NORMALISES": normalises, "GROUPS": num_groups, "TOP_GROUPS": top_groups, "SUMS_TWO": sums_two,
        "BLOCK_E": block_e, "BLOCK_K": power_of_2(top_k), "BLOCK_G": power_of_2(num_groups),
    }  # fmt: skip
    size, has_bias = count // num_groups, bias is not None
    if tokens <= FEW and weight.numel() <= AT_ONCE:
        block_in = max(16, min(power_of_2(width), 8192 // block_e))
        launchable(_whole)[(tokens,)](
            x, weight, bias, correction, weights, experts, logits, width, count, size, scale, HAS_BIAS=has_bias,
            BLOCK_IN=block_in, num_warps=8, **rule,
        )  # fmt: skip
        return weights, experts, logits
    if tokens <= FEW:
        launchable(_logits_of_few)[(tokens, ceil_div(count, 2))](
            x, weight, bias, logits, width, count, HAS_BIAS=has_bias, BLOCK_OUT=2, BLOCK_IN=min(1024, power_of_2(width))
        )
    else:
        dtype = str(x.dtype).removeprefix("torch.")
        config = LOGITS.config({"tokens": min(4096, power_of_2(tokens)), "experts": count, "in": width, "dtype": dtype})
        launchable(_logits_of_many)[(ceil_div(tokens, config["BLOCK_M"]), ceil_div(count, config["BLOCK_N"]))](
            x, weight, bias, logits, tokens, width, count, HAS_BIAS=has_bias, **config
        )
    rows = max(1, min(HELD // block_e, power_of_2(tokens) // PICKERS))
    launchable(_pick)[(ceil_div(tokens, rows),)](
        logits, correction, weights, experts, tokens, count, size, scale, ROWS=rows, **rule
    )
    return weights, experts, logits


def _fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, correction: Tensor | None, top_k: int, score: str,
    is_over_chosen: bool, normalises: bool, scale: float, num_groups: int, top_groups: int, sums_two: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    tokens = x.shape[:-1]
    return (
        x.new_empty((*tokens, top_k), dtype=torch.float32),
        x.new_empty((*tokens, top_k), dtype=torch.int64),
        x.new_empty((*tokens, weight.shape[0]), dtype=torch.float32),
    )


def _reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, correction: Tensor | None, top_k: int, score: str,
    is_over_chosen: bool, normalises: bool, scale: float, num_groups: int, top_groups: int, sums_two: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    found = reference.router(
        x=x, weight=weight, top_k=top_k, bias=bias, correction=correction, score=score,  # pyright: ignore
        score_over="chosen" if is_over_chosen else "all", normalise=normalises, scale=scale, num_groups=num_groups,
        top_groups=top_groups, group_score="top2_sum" if sums_two else "max",
    )  # fmt: skip
    return found[0].contiguous(), found[1].contiguous(), found[2].contiguous()


def _launch_backward(
    grad: Tensor | None, grad_logits: Tensor | None, x: Tensor, weight: Tensor, bias: Tensor | None,
    correction: Tensor | None, experts: Tensor, logits: Tensor, top_k: int, score: str, is_over_chosen: bool,
    normalises: bool, scale: float, num_groups: int, top_groups: int, sums_two: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return triton_router_backward.launch(
        grad, grad_logits, x, weight, experts, logits, score, is_over_chosen, normalises, scale
    )


def _fake_backward(
    grad: Tensor | None, grad_logits: Tensor | None, x: Tensor, weight: Tensor, bias: Tensor | None,
    correction: Tensor | None, experts: Tensor, logits: Tensor, top_k: int, score: str, is_over_chosen: bool,
    normalises: bool, scale: float, num_groups: int, top_groups: int, sums_two: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return triton_router_backward.empty(
        grad, grad_logits, x, weight, experts, logits, score, is_over_chosen, normalises, scale
    )


def _reference_backward(
    grad: Tensor | None, grad_logits: Tensor | None, x: Tensor, weight: Tensor, bias: Tensor | None,
    correction: Tensor | None, experts: Tensor, logits: Tensor, top_k: int, score: str, is_over_chosen: bool,
    normalises: bool, scale: float, num_groups: int, top_groups: int, sums_two: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    settings = (top_k, score, is_over_chosen, normalises, scale, num_groups, top_groups, sums_two)

    def again(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        found = _reference(x, weight, bias, correction, *settings)
        return found[0], found[2]

    given = (x.detach(), weight.detach(), logits.new_zeros(len(weight)) if bias is None else bias.detach().float())
    # not autograd: it is left out within an operator
    (weights, _), gradient = torch.func.vjp(again, *given)  # pyright: ignore[reportGeneralTypeIssues,reportAssignmentType]
    of_weights = torch.zeros_like(weights) if grad is None else grad
    of_x, of_weight, of_bias = gradient((of_weights, torch.zeros_like(logits) if grad_logits is None else grad_logits))
    return of_x.contiguous(), of_weight.contiguous(), of_bias.contiguous()


_router_backward = gpu_op("router_backward", _launch_backward, fake=_fake_backward, reference=_reference_backward)
_router = gpu_op("router", _launch, fake=_fake, reference=_reference)


def _keep(ctx, inputs, output) -> None:
    ctx.settings = inputs[4:]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:4], *output[1:])


def _gradients(ctx, grad: Tensor | None, _grad_experts: Tensor | None, grad_logits: Tensor | None):
    if grad is None and grad_logits is None:
        return (None,) * 12
    of_x, of_weight, of_bias = _router_backward(grad, grad_logits, *ctx.saved_tensors, *ctx.settings)
    bias = ctx.saved_tensors[2]
    return of_x, of_weight, None if bias is None else of_bias.to(bias.dtype), *(None,) * 9


register_gradients(_router, _gradients, setup_context=_keep)


def router(
    *,
    x: Tensor,
    weight: Tensor,
    top_k: int,
    bias: Tensor | None = None,
    correction: Tensor | None = None,
    score: ScoreKind = "softmax",
    score_over: str = "all",
    normalise: bool = False,
    scale: float = 1.0,
    num_groups: int = 1,
    top_groups: int | None = None,
    group_score: GroupScore = "max",
) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments and results are those of the reference."""
    return _router(
        x, weight, bias, correction, top_k, score, score_over == "chosen", normalise, scale, num_groups,
        num_groups if top_groups is None else top_groups, group_score == "top2_sum",
    )  # fmt: skip
