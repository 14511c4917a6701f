"""The definitions of `router`, `experts` and `router_loss`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor
from torch.nn import functional

from ..pointwise.reference import activation as activate
from ..record import called_with, shared
from .fields import Experts, InnerUnits, Inside, Layout, Packing

ScoreKind: TypeAlias = Literal["softmax", "sigmoid", "sqrtsoftplus"]
GroupScore: TypeAlias = Literal["max", "top2_sum"]


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def scores_of(logits: Tensor, kind: ScoreKind) -> Tensor:
    """Logits `[..., E]` -> scores of the same shape; only softmax makes them sum to one."""
    match kind:
        case "softmax":
            return logits.softmax(-1)
        case "sigmoid":
            return logits.sigmoid()
        case "sqrtsoftplus":
            return functional.softplus(logits).sqrt()
    raise ValueError(f"no score is called {kind!r}")


def best(x: Tensor, count: int) -> Tensor:
    """The numbers of the `count` largest along the last axis, the largest first; of equals the lowest number first.

    x `[..., N]` -> `[..., count]` int64. `topk` leaves the order of equals open.
    """
    return x.sort(dim=-1, descending=True, stable=True).indices[..., :count]


def _in_best_groups(choice: Tensor, num_groups: int, top_groups: int, group_score: GroupScore) -> Tensor:
    """`[..., E]`, where the experts outside the best groups are -inf (DeepSeek-V2, section 2.2.2)."""
    grouped = choice.view(*choice.shape[:-1], num_groups, choice.shape[-1] // num_groups)  # [..., G, E/G]
    taken = 1 if group_score == "max" else min(2, grouped.shape[-1])
    rank = grouped.topk(taken, dim=-1).values.sum(-1)
    kept = torch.zeros_like(rank, dtype=torch.bool).scatter(-1, best(rank, top_groups), True)
    return grouped.masked_fill(~kept[..., None], -torch.inf).flatten(-2)


def router(
    *,
    x: Tensor,
    weight: Tensor,
    top_k: int,
    bias: Tensor | None = None,
    correction: Tensor | None = None,
    score: ScoreKind = "softmax",
    score_over: Literal["all", "chosen"] = "all",
    normalise: bool = False,
    scale: float = 1.0,
    num_groups: int = 1,
    top_groups: int | None = None,
    group_score: GroupScore = "max",
) -> tuple[Tensor, Tensor, Tensor]:
    """The best experts of each token (Shazeer et al. 2017; bias-corrected: DeepSeek-V3, section 2.1.2).

    x `[..., M]`, weight `[E, M]`, bias and correction `[E]` -> weights `[..., K]` float32, experts `[..., K]` int64,
    the best first and of equals the lowest number, and logits `[..., E]` float32 (float64 for float64 input).
    `correction` changes which experts are picked, not their weights. `score_over` chosen takes the softmax of the
    picked logits only (gpt-oss).
    """
    wide = _wide(x)
    logits = functional.linear(x.to(wide), weight.to(wide), None if bias is None else bias.to(wide))
    scores = logits if score_over == "chosen" else scores_of(logits, score)
    choice = scores if correction is None else scores + correction.to(wide)
    if top_groups is not None and top_groups < num_groups:
        choice = _in_best_groups(choice, num_groups, top_groups, group_score)
    experts = best(choice, top_k)
    weights = scores.gather(-1, experts)
    if score_over == "chosen":
        weights = scores_of(weights, score)
    if normalise:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return weights * scale, experts, logits


def _matrix(weight: Tensor, layout: Layout) -> Tensor:
    return weight if layout == "out_in" else weight.T


def _halves(x: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
    """Gate and up of one packed projection. `[..., 2F]` -> two of `[..., F]`."""
    if packing == "interleaved":
        return x[..., 0::2], x[..., 1::2]
    gate, up = x.chunk(2, dim=-1)
    return gate, up


@called_with(InnerUnits)
def inner_units(given: InnerUnits) -> Tensor:
    """What one expert has inside, of the arguments of `experts`: x `[N, M]` -> `[N, F]`."""

    def project(weight: Tensor, bias: Tensor | None) -> Tensor:
        matrix = _matrix(weight[given.expert], given.layout)
        return functional.linear(given.x, matrix, None if bias is None else bias[given.expert])

    gate: Tensor | None = None
    if given.gate_up_proj is not None:
        gate, up = _halves(project(given.gate_up_proj, given.gate_up_proj_bias), given.packing)
    else:
        assert given.up_proj is not None
        up = project(given.up_proj, given.up_proj_bias)
        if given.gate_proj is not None:
            gate = project(given.gate_proj, given.gate_proj_bias)
    if given.limit is not None:
        up = up.clamp(-given.limit, given.limit)
        gate = None if gate is None else gate.clamp(max=given.limit)
    if gate is None:
        return activate(x=up, kind=given.activation)
    return activate(x=gate, kind=given.activation) * (up + given.up_offset if given.up_offset else up)


@called_with(Experts)
def experts(given: Experts) -> Tensor:
    """Each token through its picked MLPs, summed by their weights; weights of experts that nobody picked are not read.

    x `[..., M]`, weights `[..., K]`, experts `[..., K]` int64; gate_proj and up_proj `[E, F, M]`, or both in
    gate_up_proj `[E, 2F, M]`; down_proj `[E, M, F]`; layout `in_out` has the last two axes the other way round; biases
    `[E, width]` -> `[..., M]` of x's dtype. `down(activation(gate) * (up + up_offset))`, without a gate
    `down(activation(up))`; `limit` bounds gate from above and up on both sides (gpt-oss). `weighs` input multiplies x
    instead of the result (Llama 4). Each expert runs in x's dtype; the sum is float32 (float64 for float64 input), in
    order of experts, so that it does not depend on the batch.
    """
    x, picked, share = given.x, given.experts.reshape(-1), given.weights.reshape(-1, 1)
    rows = x.reshape(-1, x.shape[-1])
    order = picked.argsort(stable=True)  # slots `token * K + k`, expert by expert
    counts = cast("list[int]", picked.bincount().tolist())  # pyright: ignore[reportUnknownMemberType]
    total = torch.zeros(rows.shape, dtype=_wide(x), device=x.device)

    start = 0
    for index, count in enumerate(counts):
        if not count:
            continue
        slots = order[start : start + count]
        start += count
        tokens = slots // given.experts.shape[-1]
        inner, weight = rows[tokens], share[slots]
        if given.weighs == "input":
            inner = inner * weight.to(x.dtype)
        hidden = inner_units(x=inner, expert=index, **shared(given, Inside))
        bias = None if given.down_proj_bias is None else given.down_proj_bias[index]
        out = functional.linear(hidden, _matrix(given.down_proj[index], given.layout), bias)
        out = out * weight if given.weighs == "output" else out
        total = total.index_add(0, tokens, out.to(total.dtype))  # autocast may have left it narrower
    return total.to(x.dtype).view(x.shape)


def router_loss(
    *,
    logits: Sequence[Tensor],
    experts: Sequence[Tensor],
    position: Tensor,
    score: ScoreKind = "softmax",
) -> tuple[Tensor, Tensor, Tensor]:
    """How evenly the routers of several layers use their experts.

    logits `[B, T, E]` and experts `[B, T, K]`, one of each per layer, position `[B, T]` int64 (-1 padding, left out) ->
    balance `[1]`, z `[1]`, utilisation `[layers, E]`, all float32. `balance` is `E * sum_e(f_e * p_e)` over all layers
    taken together: f the picks of an expert per token, p its mean share of the scores (Fedus et al. 2021, eq. 4, as
    transformers' `load_balancing_loss_func`); even use gives K. `z` is the mean of `logsumexp(logits)^2` (Zoph et al.
    2022, eq. 5). `utilisation` is the share of each layer's picks that an expert got.
    """
    is_token = position >= 0
    stacked = torch.stack(list(logits))[:, is_token]  # [layers, N, E]
    picked = torch.stack(list(experts))[:, is_token]  # [layers, N, K]
    num_experts, tokens = stacked.shape[-1], max(1, stacked.shape[1])
    scores = scores_of(stacked, score)
    share = (scores / scores.sum(-1, keepdim=True)).sum(1) / tokens  # [layers, E]
    picks = functional.one_hot(picked, num_experts).sum((1, 2)).to(share.dtype)  # [layers, E]
    balance = num_experts * ((picks / tokens).mean(0) * share.mean(0)).sum()
    z = stacked.logsumexp(-1).square().sum() / (tokens * len(logits))
    return balance[None], z[None], picks / (tokens * picked.shape[-1])
