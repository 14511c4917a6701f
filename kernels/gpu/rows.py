"""The tokens of an operand as rows at one stride, so that a kernel takes a part of a wider projection as it lies."""

from __future__ import annotations

import torch
from torch import Tensor


def token_rows(x: Tensor) -> tuple[Tensor, int]:
    """x `[B, T, F]` -> it, or a copy where its rows have no common stride, and elements between rows `b * T + t`."""
    batch, tokens, features = x.shape
    step = x.stride(1) if tokens > 1 else x.stride(0)
    is_packed = features <= 1 or x.stride(2) == 1
    if is_packed and (batch <= 1 or tokens <= 1 or x.stride(0) == tokens * step):
        return x, step
    return x.contiguous(), features


def optional_rows(x: Tensor | None) -> tuple[Tensor | None, int]:
    """The same of an operand that may be absent."""
    return (None, 0) if x is None else token_rows(x)


def token_order(position: Tensor) -> tuple[Tensor, Tensor]:
    """Where the tokens of each row are, then its padding, `[B, T]` int32; and how many tokens, `[B]` int32.

    position `[B, T]`, -1 where a token is padding. No sort, and nothing is read on the host.
    """
    is_token = position >= 0
    before = is_token.cumsum(1)
    count = is_token.sum(1, keepdim=True)
    index = torch.arange(position.shape[1], device=position.device)
    place = torch.where(is_token, before - 1, count + index - before)
    order = torch.empty_like(place, dtype=torch.int32).scatter_(1, place, index.int().expand_as(place))
    return order, count[:, 0].int()
