"""The definition of `embedding`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def embedding(*, ids: Tensor, weight: Tensor, offset: int = 0, scale: float = 1.0) -> Tensor:
    """Row `ids + offset` of the table, times `scale`.

    ids `[B, T]` int64, weight `[R, F]` -> `[B, T, F]` of weight's dtype. An index below 0 (padding has position -1)
    reads row 0. `scale` is rounded to weight's dtype first, as Gemma's checkpoints expect (transformers
    `Gemma3TextScaledWordEmbedding`).
    """
    index = ids if offset == 0 else ids + offset
    rows = functional.embedding(index.clamp(min=0), weight)
    return rows if scale == 1.0 else rows * torch.full((), scale, dtype=weight.dtype, device=weight.device)
