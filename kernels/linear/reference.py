"""The definition of `linear`."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def linear(*, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`. x `[..., I]`, weight `[O, I]`, bias `[O]` -> `[..., O]`, all of one dtype."""
    return functional.linear(x, weight, bias)
