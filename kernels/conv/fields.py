"""The arguments of a short convolution, said once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..continued import State
from ..pointwise.reference import ActivationKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortConv:
    """Of `short_conv`."""

    x: Tensor
    position: Tensor
    weight: Tensor
    bias: Tensor | None = None
    activation: ActivationKind = "identity"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortConvFrom(ShortConv):
    """And on from a state: the last `kernel - 1` inputs of each row, the newest last, `[B, C, kernel - 1]`."""

    state: State
