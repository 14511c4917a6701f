"""The definition of the token shift: each token reads the one before it in its row."""

from __future__ import annotations

from typing import TypeAlias, overload

import torch
from torch import Tensor

from ..ragged import compact, last_of, ragged, spread

ShiftState: TypeAlias = tuple[Tensor]
"""The last token of each row, `[B, M]`."""


@overload
def token_shift(*, x: Tensor, position: Tensor) -> Tensor: ...
@overload
def token_shift(*, x: Tensor, position: Tensor, state: ShiftState) -> tuple[Tensor, ShiftState]: ...
def token_shift(*, x: Tensor, position: Tensor, state: ShiftState | None = None) -> Tensor | tuple[Tensor, ShiftState]:
    """The token before each token, zeros before a row's first (Peng et al. 2023, section 3.1).

    x `[B, T, M]`, position `[B, T]` int64 (-1 padding, which is passed over and gives zeros) -> `[B, T, M]`. With a
    state the tokens continue it, and `(out, state)` is given: the state is updated in place.
    """
    rows = ragged(position)
    last = x.new_zeros(x.shape[0], x.shape[-1]) if state is None else state[0].to(x.dtype)
    seen = torch.cat((last[:, None], compact(x, rows)), dim=1)  # [B, 1 + T, M]
    out = spread(seen[:, :-1], rows)
    if state is None:
        return out
    state[0].copy_(last_of(seen, rows, 1)[:, 0])
    return out, state
