"""The definition of the short convolution: each channel of a token is a sum over the last few tokens of its row."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..continued import continued
from ..pointwise.reference import activation as activate
from ..ragged import compact, last_of, ragged, spread
from .fields import ShortConv, ShortConvFrom


@continued(ShortConv, ShortConvFrom)
def short_conv(given: ShortConv, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """`activation(bias + sum_j weight[:, j] * x[t - (kernel - 1) + j])`, zeros before a row's first token.

    x `[B, T, C]`, weight `[C, 1, kernel]`, bias `[C]`, position `[B, T]` int64 (-1 padding, which is passed over and
    gives zeros) -> `[B, T, C]` of x's dtype. With a state the tokens continue it, and `(out, state)` is given: the tail
    is updated in place.
    """
    x, weight = given.x, given.weight
    if given.position.shape[1] == 0:
        return x, None
    taps = weight.shape[-1]
    rows = ragged(given.position)
    tail = x.new_zeros(x.shape[0], taps - 1, x.shape[-1]) if state is None else state.to(x.dtype).transpose(1, 2)
    seen = torch.cat((tail, compact(x, rows)), dim=1)  # [B, kernel - 1 + T, C]
    summed = functional.conv1d(seen.transpose(1, 2), weight, given.bias, groups=x.shape[-1]).transpose(1, 2)
    out = spread(activate(x=summed, kind=given.activation), rows)
    return out, None if state is None else last_of(seen, rows, taps - 1).transpose(1, 2)
