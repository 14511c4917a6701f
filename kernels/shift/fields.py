"""The arguments of a token shift, said once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..continued import State


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenShift:
    """Of `token_shift`."""

    x: Tensor
    position: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenShiftFrom(TokenShift):
    """And on from a state: the last token of each row, `[B, M]`."""

    state: State
