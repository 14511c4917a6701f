"""The definition of the token shift: each token reads the one before it in its row."""

from __future__ import annotations

import torch
from torch import Tensor

from ..continued import continued
from ..ragged import compact, last_of, ragged, spread
from .fields import TokenShift, TokenShiftFrom


@continued(TokenShift, TokenShiftFrom)
def token_shift(given: TokenShift, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The token before each token, zeros before a row's first (Peng et al. 2023, section 3.1).

    x `[B, T, M]`, position `[B, T]` int64 (-1 padding, which is passed over and gives zeros) -> `[B, T, M]`. With a
    state the tokens continue it, and `(out, state)` is given: the state is updated in place.
    """
    x, rows = given.x, ragged(given.position)
    last = x.new_zeros(x.shape[0], x.shape[-1]) if state is None else state.to(x.dtype)
    seen = torch.cat((last[:, None], compact(x, rows)), dim=1)  # [B, 1 + T, M]
    out = spread(seen[:, :-1], rows)
    return out, None if state is None else last_of(seen, rows, 1)[:, 0]
