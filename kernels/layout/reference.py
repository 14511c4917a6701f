"""The definitions of ops that move features: cut heads apart, take a run, repeat, reshape, mix streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def split_heads(*, x: Tensor, sizes: Mapping[str, int]) -> tuple[Tensor, ...]:
    """Every head cut into the same parts. x `[..., H*D]`, sizes that add up to D -> one `[..., H*size]` per part."""
    size = sum(sizes.values())
    heads = x.view(*x.shape[:-1], x.shape[-1] // size, size)
    return tuple(part.flatten(-2) for part in torch.split(heads, list(sizes.values()), dim=-1))


def slice_features(*, x: Tensor, start: int, size: int) -> Tensor:
    """A run of features, as a view. x `[..., M]` -> `[..., size]`."""
    return x.narrow(-1, start, size)


def tile(*, x: Tensor, times: int) -> Tensor:
    """The features again and again. x `[..., M]` -> `[..., times*M]`."""
    return torch.cat([x] * times, dim=-1)


def reshape(*, x: Tensor, shape: Sequence[int], keep: int = 2) -> Tensor:
    """The same elements under other axes after the first `keep`."""
    return x.reshape(*x.shape[:keep], *shape)


def mix_streams(*, x: Tensor, weights: Tensor, num_streams: int) -> Tensor:
    """New stream r is `sum_s weights[r, s] * stream s`. x `[B, T, S*M]`, weights `[B, T, R*S]` -> `[B, T, R*M]`."""
    streams = x.view(*x.shape[:-1], num_streams, x.shape[-1] // num_streams)
    rows = weights.view(*weights.shape[:-1], weights.shape[-1] // num_streams, num_streams).to(x.dtype)
    return (rows @ streams).flatten(-2)
