"""The definition of the mask that attention drops its weights by in training: each pair of query and key has a number.

The number is a word of Philox at the key `seed` and the counter (key's place, query's place, head, row of the batch).
The mask depends on nothing else, so the backward pass makes it again instead of keeping it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..sampling.reference import philox

BITS = 24


def dropped_below(dropout: float) -> int:
    """A pair is dropped where the first 24 bits of its word are below this: 2^24 drops all."""
    return round(dropout * 2**BITS)


def kept(*, seed: Tensor, shape: tuple[int, int, int, int], dropout: float) -> Tensor:
    """Which weights stay, `[B, H, T, S]` bool. seed: one int64."""
    places = [torch.arange(size, device=seed.device) for size in shape]
    batch, head, query, key = torch.meshgrid(*places, indexing="ij")
    return (philox(seed.view(()), (key, query, head, batch)) >> (32 - BITS)) >= dropped_below(dropout)


def dropped(*, weights: Tensor, seed: Tensor, dropout: float) -> Tensor:
    """Weights `[B, H, T, S]` without those that are dropped, the others times `1 / (1 - dropout)`."""
    batch, heads, queries, keys = weights.shape
    stays = kept(seed=seed, shape=(batch, heads, queries, keys), dropout=dropout)
    return torch.where(stays, weights * (2**BITS / max(2**BITS - dropped_below(dropout), 1)), 0.0)


def draw_seed(like: Tensor) -> Tensor:
    """A seed from torch's generator of that device, `[1]` int64, which is not looked at: a step stays recordable."""
    return torch.randint(2**63 - 1, (1,), dtype=torch.int64, device=like.device)
