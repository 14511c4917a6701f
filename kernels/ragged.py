"""Ragged rows: the tokens of each row moved together, whatever the padding of the batch, and back again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Ragged:
    """Where the tokens of each row are. Nothing of it is read on the host."""

    order: Tensor
    """`[B, T]` int64: the tokens of a row in their order, then its padding."""
    count: Tensor
    """`[B]` int64: tokens of each row."""
    is_token: Tensor
    """`[B, T]` bool."""


def ragged(position: Tensor) -> Ragged:
    """position `[B, T]` int64, -1 where a token is padding, anywhere in a row."""
    is_token = position >= 0
    order = (~is_token).long().argsort(dim=1, stable=True)
    return Ragged(order=order, count=is_token.sum(dim=1), is_token=is_token)


def compact(x: Tensor, rows: Ragged) -> Tensor:
    """The tokens of each row first, then zeros. x `[B, T, F]` -> `[B, T, F]`."""
    x = x.masked_fill(~rows.is_token[..., None], 0.0)
    return x.gather(1, rows.order[..., None].expand_as(x))


def spread(x: Tensor, rows: Ragged) -> Tensor:
    """The inverse of `compact`; padding is zero. x `[B, T, F]` -> `[B, T, F]`."""
    back = rows.order.argsort(dim=1)
    return x.gather(1, back[..., None].expand_as(x)).masked_fill(~rows.is_token[..., None], 0.0)


def last_of(x: Tensor, rows: Ragged, size: int) -> Tensor:
    """The `size` entries that end at each row's last token.

    x `[B, size + T, F]`, what was kept and then the compact tokens -> `[B, size, F]`.
    """
    index = rows.count[:, None] + torch.arange(size, device=x.device)  # [B, size]
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
