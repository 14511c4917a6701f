"""Mixtures (G5): 128 experts, eight a token, for a long prompt and for one to eight tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from ....kernels.moe import reference, triton_stack
from .beside_reference import beside_reference
from .case import Builder, Case, Run, Sizes, picked


def cases(sizes: Sizes) -> Iterator[Builder]:
    """All measurements of the family, at Qwen3-30B-A3B's shape."""
    for tokens in (32768, 8, 1):
        yield partial(_case, sizes, sizes.pick(tokens, 20) if tokens > 8 else tokens)
    yield partial(_backward, sizes, sizes.pick(32768, 9))
    yield partial(_biases, sizes, sizes.pick(8192, 9))
    yield partial(_inputs_first, sizes)
    for format in ("int8", "int4", "int4_128", "ternary"):
        yield partial(_packed, sizes, format)
        for tokens in (128, 2048) if format == "int4" else (2048,):
            yield partial(_packed_prompt, sizes, format, sizes.pick(tokens, tokens // 128))
    for experts, tokens in ((128, 1), (8, 1), (128, sizes.pick(8192, 70))):
        yield partial(_router, sizes, sizes.pick(experts, 4), tokens)
    yield partial(_router_backward, sizes, sizes.pick(128, 4), sizes.pick(8192, 9))


def _operands(sizes: Sizes, tokens: int) -> dict[str, object]:
    experts, width, inner = sizes.pick(128, 4), sizes.pick(2048, 32), sizes.pick(768, 48)
    chosen = sizes.pick(8, 2)
    up = sizes.randn(experts, 2 * inner, width) * width**-0.5
    down = sizes.randn(experts, width, inner) * inner**-0.5
    x = sizes.randn(1, tokens, up.shape[2])
    scores = torch.randn(1, tokens, len(up), device=sizes.device).softmax(-1)
    weights, picks = scores.topk(chosen, dim=-1)
    return {
        "x": x, "weights": weights, "experts": picks, "gate_up_proj": up, "down_proj": down, "packing": "halves",
    }  # fmt: skip


def _tensors(operands: dict[str, object]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x, weights, picks, gate and up, down."""
    names = ("x", "weights", "experts", "gate_up_proj", "down_proj")
    x, weights, picks, up, down = (cast("Tensor", operands[name]) for name in names)
    return x, weights, picks, up, down


def _case(sizes: Sizes, tokens: int) -> Case:
    operands = _operands(sizes, tokens)
    x, weights, picks, up, down = _tensors(operands)
    chosen = picks.shape[-1]
    phase = "decode" if tokens == 1 else "prefill"
    name, function = picked("experts", phase, sizes, operands, num_experts=len(up))
    rivals: dict[str, Run | str] = {"torch grouped_mm": _grouped(sizes, x[0], weights[0], picks[0], up, down)}
    if sizes.is_tiny:
        by_expert = cast("Callable[..., Tensor]", reference.experts)
        rivals["reference"] = lambda: by_expert(**operands)
    active = int(torch.zeros(len(up), device=sizes.device).index_fill_(0, picks.flatten(), 1.0).sum())
    per_expert = up[0].nbytes + down[0].nbytes
    is_long = tokens > 8
    return Case(
        target="G5", name=f"experts, {len(up)} of {up.shape[1] // 2}, {chosen} a token, {tokens} tokens", kernel=name,
        ours=lambda: function(**operands), bytes=float(active * per_expert + 2 * x.nbytes),
        flops=2.0 * tokens * chosen * (up[0].numel() + down[0].numel()), bound="matmul" if is_long else "bandwidth",
        rivals=rivals,
        goal="550 TFLOP/s, >= 2x grouped_mm" if is_long else ">= 80 %",
    )  # fmt: skip


def _backward(sizes: Sizes, tokens: int) -> Case:
    """Gradients of tokens, weights and all matrices: two products of the forward pass's size for each of its."""
    operands = _operands(sizes, tokens)
    name, function = picked("experts", "train", sizes, operands, num_experts=len(cast("Tensor", operands["down_proj"])))
    names = ("x", "weights", "gate_up_proj", "down_proj")
    leaves = {key: cast("Tensor", operands[key]).requires_grad_() for key in names}
    x, weights, picks, up, down = _tensors(operands)
    grad = sizes.randn(*x.shape)

    def backward(run: Callable[[], object]) -> Run:
        with torch.enable_grad():
            out = cast("Tensor", run())
        return lambda: torch.autograd.grad(out, list(leaves.values()), grad, retain_graph=True)

    by_torch = _grouped(sizes, x[0], weights[0], picks[0], up, down)
    rivals: dict[str, Run | str] = {"torch grouped_mm": by_torch if isinstance(by_torch, str) else backward(by_torch)}
    if sizes.is_tiny:
        by_expert = cast("Callable[..., Tensor]", reference.experts)
        rivals = {"reference": backward(lambda: by_expert(**operands)), **rivals}
    matrices, chosen = up.nbytes + down.nbytes, picks.shape[-1]
    return Case(
        target="G5", name=f"experts backward, {len(up)} of {up.shape[1] // 2}, {chosen} a token, {tokens} tokens",
        kernel=name, ours=backward(lambda: function(**operands)), bytes=float(2 * matrices + 4 * x.nbytes),
        flops=4.0 * picks.numel() * (up[0].numel() + down[0].numel()), bound="matmul", rivals=rivals,
        goal=">= 1x grouped_mm",
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


def _biases(sizes: Sizes, tokens: int) -> Case:
    """With biases, whose gradients are sums over an expert's tokens, as in a model of 32 experts of 2880."""
    experts, width, inner, chosen = sizes.pick(32, 2), sizes.pick(2880, 32), sizes.pick(2880, 16), sizes.pick(4, 1)
    scores = torch.randn(1, tokens, experts, device=sizes.device).softmax(-1)
    weights, picks = scores.topk(chosen, dim=-1)
    operands: dict[str, object] = {
        "x": sizes.randn(1, tokens, width), "weights": weights, "experts": picks, "packing": "halves",
        "gate_up_proj": sizes.randn(experts, 2 * inner, width) * width**-0.5,
        "down_proj": sizes.randn(experts, width, inner) * inner**-0.5,
        "gate_up_proj_bias": sizes.randn(experts, 2 * inner), "down_proj_bias": sizes.randn(experts, width),
    }  # fmt: skip
    return beside_reference(
        sizes, "moe:experts", "train", operands, leaves=("x", "gate_up_proj_bias", "down_proj_bias"), target="G5",
        others={"num_experts": experts}, flops=12.0 * tokens * chosen * width * inner * 3, note=" with biases",
        compares=False,
    )  # fmt: skip


def _inputs_first(sizes: Sizes) -> Case:
    """One token; the outputs of matrices lie side by side, and gate and up in turn."""
    experts, width, inner, chosen = sizes.pick(32, 2), sizes.pick(2880, 32), sizes.pick(2880, 16), sizes.pick(4, 1)
    weights, picks = torch.randn(1, 1, experts, device=sizes.device).softmax(-1).topk(chosen, dim=-1)
    operands: dict[str, object] = {
        "x": sizes.randn(1, 1, width), "weights": weights, "experts": picks, "packing": "interleaved",
        "layout": "in_out", "gate_up_proj": sizes.randn(experts, width, 2 * inner) * width**-0.5,
        "down_proj": sizes.randn(experts, inner, width) * inner**-0.5,
    }  # fmt: skip
    return beside_reference(
        sizes, "moe:experts", "decode", operands, target="G5", others={"num_experts": experts}, note=", inputs first",
        moved=float(3 * chosen * width * inner * sizes.dtype.itemsize), goal=">= 80 %",
    )  # fmt: skip


BITS = {"int8": 8.0, "int4": 4.5, "int4_128": 4.125, "ternary": 2.0}


def _packed(sizes: Sizes, format: str) -> Case:
    """One token; the rival reads 16 bits a weight."""
    operands = _operands(sizes, 1)
    experts, chosen = len(cast("Tensor", operands["down_proj"])), cast("Tensor", operands["experts"]).shape[-1]
    matrices = sum(cast("Tensor", operands[name]).numel() for name in ("gate_up_proj", "down_proj"))
    return beside_reference(
        sizes, "moe:experts", "decode", operands, target="G5", others={"num_experts": experts}, format=format,
        note=f", {format}", moved=matrices / experts * chosen * BITS[format] / 8, compares=False,
    )  # fmt: skip


def _packed_prompt(sizes: Sizes, format: str, tokens: int) -> Case:
    """Many tokens, which read every expert; the rival reads 16 bits a weight."""
    operands = _operands(sizes, tokens)
    x, weights, picks, up, down = _tensors(operands)
    name, function = picked("experts", "prefill", sizes, operands, format=format, num_experts=len(up))
    stacks = zip(("gate_up_proj", "down_proj"), (up, down), strict=True)
    given = operands | {key: triton_stack.pack(stack, format, is_in_out=False) for key, stack in stacks}
    is_long = tokens > 1024
    return Case(
        target="G5", name=f"experts, {format}, {len(up)} of {up.shape[1] // 2}, {tokens} tokens", kernel=name,
        ours=lambda: function(**given), bytes=(up.numel() + down.numel()) * BITS[format] / 8,
        flops=2.0 * picks.numel() * (up[0].numel() + down[0].numel()), bound="matmul" if is_long else "bandwidth",
        rivals={"torch grouped_mm": _grouped(sizes, x[0], weights[0], picks[0], up, down)}, compares=False,
        goal=">= 1x grouped_mm" if is_long else ">= 65 %",
    )  # fmt: skip


def _router_backward(sizes: Sizes, experts: int, tokens: int) -> Case:
    width = sizes.pick(2048, 32)
    operands: dict[str, object] = {
        "x": sizes.randn(1, tokens, width), "weight": sizes.randn(experts, width), "top_k": sizes.pick(8, 2),
        "normalise": True,
    }  # fmt: skip
    return beside_reference(
        sizes, "moe:router", "train", operands, leaves=("x", "weight"), target="G5", others={"num_experts": experts},
        compares=False,
    )  # fmt: skip


def _router(sizes: Sizes, experts: int, tokens: int) -> Case:
    width, chosen = sizes.pick(2048, 32), sizes.pick(min(experts, 8), 2)
    x, weight = sizes.randn(1, tokens, width), sizes.randn(experts, width)
    operands: dict[str, object] = {"x": x, "weight": weight, "top_k": chosen, "normalise": True}
    phase = "decode" if tokens == 1 else "prefill"
    name, function = picked("router", phase, sizes, operands, num_experts=experts)

    def rival() -> Tensor:
        values, _ = functional.linear(x, weight).float().softmax(-1).topk(chosen)
        return values / values.sum(-1, keepdim=True)

    return Case(
        target="G5", name=f"router, {experts} experts, {tokens} tokens", kernel=name, ours=lambda: function(**operands),
        bytes=float(weight.nbytes + x.nbytes), flops=2.0 * tokens * weight.numel(), bound="bandwidth",
        rivals={"torch": rival}, compares=False,
    )  # fmt: skip
