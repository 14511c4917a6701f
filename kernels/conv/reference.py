"""The definition of the short convolution: each channel of a token is a sum over the last few tokens of its row."""

from __future__ import annotations

from typing import TypeAlias, overload

import torch
from torch import Tensor
from torch.nn import functional

from ..pointwise.reference import ActivationKind
from ..pointwise.reference import activation as activate
from ..ragged import compact, last_of, ragged, spread

ConvState: TypeAlias = tuple[Tensor]
"""The last `kernel - 1` inputs of each row, the newest last: `[B, C, kernel - 1]`."""


@overload
def short_conv(
    *, x: Tensor, position: Tensor, weight: Tensor, bias: Tensor | None = None, activation: ActivationKind = "identity"
) -> Tensor: ...
@overload
def short_conv(
    *,
    x: Tensor,
    position: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: ActivationKind = "identity",
    state: ConvState,
) -> tuple[Tensor, ConvState]: ...
def short_conv(
    *,
    x: Tensor,
    position: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: ActivationKind = "identity",
    state: ConvState | None = None,
) -> Tensor | tuple[Tensor, ConvState]:
    """`activation(bias + sum_j weight[:, j] * x[t - (kernel - 1) + j])`, zeros before a row's first token.

    x `[B, T, C]`, weight `[C, 1, kernel]`, bias `[C]`, position `[B, T]` int64 (-1 padding, which is passed over and
    gives zeros) -> `[B, T, C]` of x's dtype. With a state the tokens continue it, and `(out, state)` is given: the tail
    is updated in place.
    """
    if position.shape[1] == 0:
        return x if state is None else (x, state)
    taps = weight.shape[-1]
    rows = ragged(position)
    tail = x.new_zeros(x.shape[0], taps - 1, x.shape[-1]) if state is None else state[0].to(x.dtype).transpose(1, 2)
    seen = torch.cat((tail, compact(x, rows)), dim=1)  # [B, kernel - 1 + T, C]
    summed = functional.conv1d(seen.transpose(1, 2), weight, bias, groups=x.shape[-1]).transpose(1, 2)
    out = spread(activate(x=summed, kind=activation), rows)
    if state is None:
        return out
    state[0].copy_(last_of(seen, rows, taps - 1).transpose(1, 2))
    return out, state
