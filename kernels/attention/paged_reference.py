"""The definition of attention over a cache of pages, which a table gives to each row in turn."""

from __future__ import annotations

import torch
from torch import Tensor

from ..record import called_with, shared
from .fields import AttendPaged, MaskedScores
from .reference import attend_cached


@called_with(AttendPaged)
def attend_paged(given: AttendPaged) -> Tensor:
    """`attend_cached` where the key at position p lies in page `block_table[row, p // block_size]`, in its slot `p %
    block_size`.

    q `[B, T, H*D]`; keys `[pages, Hkv, block_size, D]`, values `[pages, Hkv, block_size, Dv]` of q's dtype, or narrower
    with a key_scale and a value_scale `[Hkv]` or `[1]` float32 to multiply them by; block_table `[B, n]` int32 or
    int64, of which only the pages below a row's length are read; lengths `[B]` int64, the tokens that each row holds,
    those of this call included; position `[B, T]` int64 (-1 padding) -> `[B, T, H*Dv]` of q's dtype. A page may belong
    to several rows.
    """
    q, size = given.q, given.keys.shape[2]
    order = torch.arange(given.block_table.shape[1] * size, device=q.device)
    key_position = torch.where(order < given.lengths[:, None], order, -1)  # [B, S]
    is_held = key_position[:, ::size] >= 0  # [B, n]
    pages = torch.where(is_held, given.block_table, 0).long()

    def gathered(cache: Tensor, factor: Tensor | None) -> Tensor:
        rows = cache[pages].transpose(1, 2).flatten(2, 3)  # [B, Hkv, S, D]
        wide = rows.to(torch.promote_types(q.dtype, torch.float32))
        wide = wide if factor is None else wide * factor.view(-1, 1, 1)
        return wide.masked_fill((key_position < 0)[:, None, :, None], 0.0)

    return attend_cached(
        q=q,
        keys=gathered(given.keys, given.key_scale),
        values=gathered(given.values, given.value_scale),
        key_position=key_position,
        position=given.position,
        head_dim=given.head_dim,
        v_head_dim=given.values.shape[-1],
        **shared(given, MaskedScores),
    )
