"""The definition of latent attention, over a call's own tokens and over cached latents, and how latents are cached."""

from __future__ import annotations

import torch
from torch import Tensor

from ..attention.reference import attend_cached
from ..cache.fields import Appended
from ..cache.reference import kv_full_append
from ..record import called_with
from .fields import LatentAppend, LatentAttendCached, LatentAttention


@called_with(LatentAppend)
def kv_latent_append(given: LatentAppend) -> Appended:
    """Adds tokens to a `kv_latent` state, in place: `kv_full_append` with one head, whose key is the latent and whose
    value is the rotated part.

    state: latents `[B, 1, capacity, R]`, ropes `[B, 1, capacity, Dr]`; latent `[B, T, R]`, k_rope `[B, T, Dr]`,
    position `[B, T]`, lengths `[B]` -> `(state, latents [B, 1, S, R], k_ropes [B, 1, S, Dr], key_position [B, S])`.
    """
    return kv_full_append.of(given.by_head())


@called_with(LatentAttendCached)
def latent_attend_cached(given: LatentAttendCached) -> Tensor:
    """Attention over keys and values that each head makes of cached latents (DeepSeek-V2, eqs. 9 to 19).

    q_nope `[B, T, H*Dn]`, q_rope `[B, T, H*Dr]`, latents `[B, 1, S, R]`, k_ropes `[B, 1, S, Dr]` shared by the heads,
    kv_up `[H*(Dn+Dv), R]`; key_position `[B, S]` (-1 empty), position `[B, T]` (-1 padding) int64 -> `[B, T, H*Dv]` of
    q's dtype. Sees keys at or before the query.
    """
    nope, rope, width = given.nope_head_dim, given.rope_head_dim, given.v_head_dim
    heads, at = given.q_nope.shape[-1] // nope, given.key_position
    expanded = (given.latents[:, 0] @ given.kv_up.T).view(*at.shape, heads, nope + width).transpose(1, 2)
    k_nope, values = expanded[..., :nope], expanded[..., nope:]  # [B, H, S, Dn], [B, H, S, Dv]
    keys = torch.cat((k_nope, given.k_ropes.expand(-1, heads, -1, -1)), dim=-1)
    parts = ((given.q_nope, nope), (given.q_rope, rope))
    q = torch.cat([part.view(*given.position.shape, heads, size) for part, size in parts], dim=-1)
    return attend_cached(
        q=q.flatten(-2),
        keys=keys,
        values=values,
        key_position=at,
        position=given.position,
        head_dim=nope + rope,
        v_head_dim=width,
        scale=given.scale,
    )


@called_with(LatentAttention)
def latent_attention(given: LatentAttention) -> Tensor:
    """`latent_attend_cached` with the call's own latents. latent `[B, T, R]`, k_rope `[B, T, Dr]` -> `[B, T, H*Dv]`."""
    return latent_attend_cached.of(given.cached())
