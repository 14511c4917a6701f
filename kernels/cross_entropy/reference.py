"""The definition of the head's product with its softmax cross-entropy."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

Reduction: TypeAlias = Literal["mean", "sum"]


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
    """`-log softmax(logits)[target] + z_loss * logsumexp(logits)^2` with `logits = hidden @ weight.T`, as one number.

    hidden `[..., M]`, weight `[V, M]` of one dtype, target `[...]` int64 -> `[]` float32 (float64 for float64 input).
    Logits are rounded to the dtype, what follows is float32. `softcap` caps the logits (Gemma 2); `label_smoothing`
    gives that share of the target to all V tokens alike (Szegedy et al. 2016); `z_loss` is PaLM's. Tokens whose target
    is `ignore_index` count for nothing; the mean is over the others, and 0 where there is none.
    """
    logits = functional.linear(hidden.reshape(-1, hidden.shape[-1]), weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return cross_entropy(
        logits=logits,
        target=target.flatten(),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        reduction=reduction,
    )


def cross_entropy(
    *,
    logits: Tensor,
    target: Tensor,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """The same of logits `[N, V]` that are there. target `[N]` -> `[]` float32 (float64 for float64 logits)."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    is_counted = target != ignore_index
    picked = logits.gather(1, torch.where(is_counted, target, 0)[:, None])[:, 0]
    total = logits.logsumexp(-1)
    losses = total - (1 - label_smoothing) * picked - label_smoothing * logits.mean(-1) + z_loss * total.square()
    loss = torch.where(is_counted, losses, 0.0).sum()
    return loss / is_counted.sum().clamp(min=1) if reduction == "mean" else loss
