"""Mixtures (G5): 128 experts, eight a token, for a long prompt and for one to eight tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from ....kernels.moe import reference
from .case import Builder, Case, Run, Sizes, picked


def cases(sizes: Sizes) -> Iterator[Builder]:
    """All measurements of the family, at Qwen3-30B-A3B's shape."""
    for tokens in (32768, 8, 1):
        yield partial(_case, sizes, sizes.pick(tokens, 20) if tokens > 8 else tokens)
    yield partial(_router, sizes, sizes.pick(128, 4), sizes.pick(2048, 32), sizes.pick(8, 2))


def _case(sizes: Sizes, tokens: int) -> Case:
    experts, width, inner = sizes.pick(128, 4), sizes.pick(2048, 32), sizes.pick(768, 48)
    chosen = sizes.pick(8, 2)
    up = sizes.randn(experts, 2 * inner, width) * width**-0.5
    down = sizes.randn(experts, width, inner) * inner**-0.5
    x = sizes.randn(1, tokens, up.shape[2])
    scores = torch.randn(1, tokens, len(up), device=sizes.device).softmax(-1)
    weights, picks = scores.topk(chosen, dim=-1)
    operands: dict[str, object] = {
        "x": x, "weights": weights, "experts": picks, "gate_up_proj": up, "down_proj": down, "packing": "halves",
    }  # fmt: skip
    phase = "decode" if tokens == 1 else "prefill"
    name, function = picked("experts", phase, sizes, operands, num_experts=experts)
    rivals: dict[str, Run | str] = {"torch grouped_mm": _grouped(sizes, x[0], weights[0], picks[0], up, down)}
    if sizes.is_tiny:
        by_expert = cast("Callable[..., Tensor]", reference.experts)
        rivals["reference"] = lambda: by_expert(**operands)
    active = int((picks.flatten().bincount(minlength=len(up)) > 0).sum())
    per_expert = up[0].nbytes + down[0].nbytes
    is_long = tokens > 8
    return Case(
        target="G5", name=f"experts, {len(up)} of {up.shape[1] // 2}, {chosen} a token, {tokens} tokens", kernel=name,
        ours=lambda: function(**operands), bytes=float(active * per_expert + 2 * x.nbytes),
        flops=2.0 * tokens * chosen * (up[0].numel() + down[0].numel()), bound="matmul" if is_long else "bandwidth",
        rivals=rivals,
        goal="550 TFLOP/s, >= 2x grouped_mm" if is_long else ">= 80 %",
    )  # fmt: skip


def _grouped(sizes: Sizes, x: Tensor, weights: Tensor, picks: Tensor, up: Tensor, down: Tensor) -> Run | str:
    """Tokens sorted by expert, two grouped products, and the weighted sum."""
    if sizes.device.type != "cuda":
        return "only on a GPU"
    grouped = cast("Callable[..., Tensor]", torch._grouped_mm)  # pyright: ignore[reportPrivateUsage,reportPrivateImportUsage,reportUnknownMemberType]

    def run() -> Tensor:
        flat = picks.flatten()
        order = flat.argsort()
        ends = torch.bincount(flat, minlength=len(up)).cumsum(0).to(torch.int32)
        rows = order // picks.shape[1]
        gate, value = grouped(x[rows], up.transpose(1, 2), offs=ends).chunk(2, dim=-1)
        out = grouped(functional.silu(gate) * value, down.transpose(1, 2), offs=ends)
        total = torch.zeros_like(x, dtype=torch.float32)
        return total.index_add(0, rows, out * weights.flatten()[order, None]).to(x.dtype)[None]

    return run


def _router(sizes: Sizes, experts: int, width: int, chosen: int) -> Case:
    x, weight = sizes.randn(1, 1, width), sizes.randn(experts, width)
    operands: dict[str, object] = {"x": x, "weight": weight, "top_k": chosen, "normalise": True}
    name, function = picked("router", "decode", sizes, operands, num_experts=experts)

    def rival() -> Tensor:
        values, _ = functional.linear(x, weight).float().softmax(-1).topk(chosen)
        return values / values.sum(-1, keepdim=True)

    return Case(
        target="G5", name=f"router, {experts} experts, 1 token", kernel=name, ours=lambda: function(**operands),
        bytes=float(weight.nbytes), flops=2.0 * weight.numel(), bound="bandwidth", rivals={"torch": rival},
        compares=False,
    )  # fmt: skip
