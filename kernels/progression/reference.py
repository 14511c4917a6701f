"""The definition of `geometric`."""

from __future__ import annotations

import torch
from torch import Tensor


def geometric(*, like: Tensor, size: int, start: float, ratio: float) -> Tensor:
    """`start * ratio^i` for i from 0 -> `[size]`, float32 (float64 where `like` is float64) on the device of `like`.

    Slopes of lightning attention: Qin et al. 2024, section 2.3.
    """
    wide = torch.promote_types(like.dtype, torch.float32)
    exponents = torch.arange(size, device=like.device, dtype=torch.float64)
    return (start * ratio**exponents).to(wide)
