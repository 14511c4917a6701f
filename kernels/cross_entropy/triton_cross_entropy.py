"""Softmax cross-entropy with the head in Triton: a chunk of tokens at a time, so that the logits are never whole.

A chunk's logits are a product of cuBLAS; one program a token then reads them twice, for the loss and for the gradient
that it writes over them, from which two more products give the gradients of hidden and weight (as Liger Kernel does,
Hsu et al. 2024). A chunk's logits take about as much as the hidden states: memory is V/M times less than whole. The
gradients are made going forward, for a loss of weight 1, and scaled going back. Floor: three products of 2 N M V FLOPs.
"""

# pyright: basic
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.activations import tanh
from ..gpu.gradients import register_gradients
from ..gpu.op import gpu_op, is_interpreted, launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..kernel import Request
from . import reference
from .reference import Reduction

BLOCK = 4096
"""Most logits that a program holds at a time."""


def serves(request: Request) -> str | None:
    """None, or why the loss cannot run."""
    return "sums are float32" if request.dtype == "float64" else None


@triton.jit
def _capped(p_logits, o_x, size, cap, HAS_CAP: tl.constexpr):
    """Float32 logits of a block, minus infinity beyond the vocabulary."""
    b_x = tl.load(p_logits + o_x, mask=o_x < size, other=0.0).to(tl.float32)
    if HAS_CAP:
        b_x = cap * tanh(b_x / cap)
    return tl.where(o_x < size, b_x, -float("inf"))


@triton.jit
def _token_loss(
    p_logits, p_target, p_loss, size, ignored, cap, smoothing, z_loss,
    HAS_CAP: tl.constexpr, HAS_GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The loss of one token; its gradient takes the place of its logits."""
    i_row = tl.program_id(0).to(tl.int64)
    p_logits += i_row * size
    target = tl.load(p_target + i_row)
    b_largest = tl.full((BLOCK,), -float("inf"), tl.float32)
    b_sum, b_plain = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    b_picked = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, size, BLOCK):
        o_x = start + tl.arange(0, BLOCK)
        b_x = _capped(p_logits, o_x, size, cap, HAS_CAP)
        b_next = tl.maximum(b_largest, b_x)
        b_base = tl.where(b_next == -float("inf"), 0.0, b_next)
        b_sum = b_sum * tl.exp(b_largest - b_base) + tl.exp(b_x - b_base)
        b_largest = b_next
        b_plain += tl.where(o_x < size, b_x, 0.0)
        b_picked += tl.where(o_x == target, b_x, 0.0)
    largest = tl.max(b_largest, 0)
    total = largest + tl.log(tl.sum(b_sum * tl.exp(b_largest - largest), 0))
    loss = total - (1.0 - smoothing) * tl.sum(b_picked, 0) - smoothing * (tl.sum(b_plain, 0) / size)
    loss += z_loss * total * total
    is_counted = target != ignored
    tl.store(p_loss + i_row, tl.where(is_counted, loss, 0.0))
    if HAS_GRADIENT:
        weight = tl.where(is_counted, 1.0, 0.0)
        for start in range(0, size, BLOCK):
            o_x = start + tl.arange(0, BLOCK)
            b_x = _capped(p_logits, o_x, size, cap, HAS_CAP)
            b_grad = tl.exp(b_x - total) * (1.0 + 2.0 * z_loss * total) - smoothing / size
            b_grad -= tl.where(o_x == target, 1.0 - smoothing, 0.0)
            if HAS_CAP:
                b_share = tl.where(o_x < size, b_x, 0.0) / cap
                b_grad *= 1.0 - b_share * b_share
            tl.store(p_logits + o_x, (b_grad * weight).to(p_logits.dtype.element_ty), mask=o_x < size)


def chunk_of(tokens: int, hidden_size: int, vocab_size: int) -> int:
    """Tokens at a time: as many as make the logits about as large as the hidden states."""
    return max(1, min(tokens, power_of_2(ceil_div(tokens, ceil_div(vocab_size, hidden_size)))))


def _launch(
    hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int, softcap: float, label_smoothing: float,
    z_loss: float, is_mean: bool, has_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    tokens, size = hidden.shape[0], weight.shape[0]
    losses = torch.empty(tokens, dtype=torch.float32, device=hidden.device)
    share = _share(target, ignore_index, is_mean)
    grad_hidden = torch.empty_like(hidden if has_gradient else hidden[:0], memory_format=torch.contiguous_format)
    grad_weight = hidden.new_zeros(weight.shape if has_gradient else (0,), dtype=torch.float32)
    chunk = chunk_of(tokens, *reversed(weight.shape))
    block = min(BLOCK, power_of_2(size))
    for start in range(0, tokens, chunk):
        rows = hidden[start : start + chunk]
        logits = torch.mm(rows, weight.t())
        launchable(_token_loss)[(rows.shape[0],)](
            logits, target[start : start + chunk], losses[start : start + chunk], size, ignore_index, softcap,
            label_smoothing, z_loss, HAS_CAP=softcap > 0, HAS_GRADIENT=has_gradient, BLOCK=block,
            num_warps=max(1, min(8, block // 256)),
        )  # fmt: skip
        if has_gradient:
            grad_hidden[start : start + chunk] = torch.mm(logits, weight).mul_(share)
            grad_weight += torch.mm(logits.t(), rows)
    return losses.sum() * share, grad_hidden, grad_weight.mul_(share).to(weight.dtype)


def _share(target: Tensor, ignore_index: int, is_mean: bool) -> Tensor:
    """What one token's loss weighs, `[]` float32 on the device."""
    count = (target != ignore_index).sum().clamp(min=1) if is_mean else torch.ones((), device=target.device)
    return count.float().reciprocal()


def _fake(
    hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int, softcap: float, label_smoothing: float,
    z_loss: float, is_mean: bool, has_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    loss = hidden.new_empty((), dtype=torch.float32)
    if not has_gradient:
        return loss, hidden.new_empty((0, hidden.shape[1])), weight.new_empty(0)
    return loss, hidden.new_empty(hidden.shape), weight.new_empty(weight.shape)


def _reference(
    hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int, softcap: float, label_smoothing: float,
    z_loss: float, is_mean: bool, has_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    if has_gradient:
        raise NotImplementedError("on a CPU the public function calls the reference, whose gradient is torch's")
    loss = reference.linear_cross_entropy(
        hidden=hidden, weight=weight, target=target, ignore_index=ignore_index, softcap=softcap or None,
        label_smoothing=label_smoothing, z_loss=z_loss, reduction="mean" if is_mean else "sum",
    )  # fmt: skip
    return loss, hidden.new_empty((0, hidden.shape[1])), weight.new_empty(0)


_loss = gpu_op("linear_cross_entropy", _launch, fake=_fake, reference=_reference)


def _keep(ctx, inputs, output) -> None:
    ctx.save_for_backward(*output[1:])


def _gradients(ctx, grad: Tensor, _grad_hidden: Tensor, _grad_weight: Tensor):
    grad_hidden, grad_weight = ctx.saved_tensors
    return grad_hidden * grad, grad_weight * grad, None, None, None, None, None, None, None


register_gradients(_loss, _gradients, setup_context=_keep)


def linear_cross_entropy(
    *,
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    ignore_index: int = -100,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Arguments and result are those of the reference, for dtypes up to float32.

    Where no gradient is asked for, none is made. Sums over tokens of the weight's gradient are float32.
    """
    if hidden.device.type == "cpu" and not is_interpreted():
        return reference.linear_cross_entropy(
            hidden=hidden, weight=weight, target=target, ignore_index=ignore_index, softcap=softcap,
            label_smoothing=label_smoothing, z_loss=z_loss, reduction=reduction,
        )  # fmt: skip
    has_gradient = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    return _loss(
        hidden.reshape(-1, hidden.shape[-1]), weight, target.flatten(), ignore_index, softcap or 0.0, label_smoothing,
        z_loss, reduction == "mean", has_gradient,
    )[0]  # fmt: skip
