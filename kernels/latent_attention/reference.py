"""The definition of latent attention, over a call's own tokens and over cached latents, and how latents are cached."""

from __future__ import annotations

import torch
from torch import Tensor

from ..attention.reference import attend_cached
from ..cache.reference import KvState, kv_full_append


def kv_latent_append(
    *,
    state: KvState,
    latent: Tensor,
    k_rope: Tensor,
    position: Tensor,
    lengths: Tensor,
    rank: int,
    rope_dim: int,
    is_static: bool = False,
) -> tuple[KvState, Tensor, Tensor, Tensor]:
    """Adds tokens to a `kv_latent` state, in place: `kv_full_append` with one head, whose key is the latent and whose
    value is the rotated part.

    state: latents `[B, 1, capacity, R]`, ropes `[B, 1, capacity, Dr]`; latent `[B, T, R]`, k_rope `[B, T, Dr]`,
    position `[B, T]`, lengths `[B]` -> `(state, latents [B, 1, S, R], k_ropes [B, 1, S, Dr], key_position [B, S])`.
    """
    return kv_full_append(
        state=state,
        k=latent,
        v=k_rope,
        position=position,
        lengths=lengths,
        heads=1,
        key_dim=rank,
        value_dim=rope_dim,
        is_static=is_static,
    )


def latent_attend_cached(
    *,
    q_nope: Tensor,
    q_rope: Tensor,
    latents: Tensor,
    k_ropes: Tensor,
    key_position: Tensor,
    kv_up: Tensor,
    position: Tensor,
    nope_head_dim: int,
    rope_head_dim: int,
    v_head_dim: int,
    scale: float | None = None,
) -> Tensor:
    """Attention over keys and values that each head makes of cached latents (DeepSeek-V2, eqs. 9 to 19).

    q_nope `[B, T, H*Dn]`, q_rope `[B, T, H*Dr]`, latents `[B, 1, S, R]`, k_ropes `[B, 1, S, Dr]` shared by the heads,
    kv_up `[H*(Dn+Dv), R]`; key_position `[B, S]` (-1 empty), position `[B, T]` (-1 padding) int64 -> `[B, T, H*Dv]` of
    q's dtype. `scale` defaults to `1 / sqrt(Dn + Dr)`. Sees keys at or before the query.
    """
    heads = q_nope.shape[-1] // nope_head_dim
    size = nope_head_dim + v_head_dim
    expanded = (latents[:, 0] @ kv_up.T).view(*key_position.shape, heads, size).transpose(1, 2)  # [B, H, S, Dn + Dv]
    k_nope, values = expanded[..., :nope_head_dim], expanded[..., nope_head_dim:]
    keys = torch.cat((k_nope, k_ropes.expand(-1, heads, -1, -1)), dim=-1)
    parts = ((q_nope, nope_head_dim), (q_rope, rope_head_dim))
    q = torch.cat([part.view(*position.shape, heads, size) for part, size in parts], dim=-1)
    return attend_cached(
        q=q.flatten(-2),
        keys=keys,
        values=values,
        key_position=key_position,
        position=position,
        head_dim=nope_head_dim + rope_head_dim,
        v_head_dim=v_head_dim,
        scale=scale,
    )


def latent_attention(
    *,
    q_nope: Tensor,
    q_rope: Tensor,
    latent: Tensor,
    k_rope: Tensor,
    kv_up: Tensor,
    position: Tensor,
    nope_head_dim: int,
    rope_head_dim: int,
    v_head_dim: int,
    scale: float | None = None,
) -> Tensor:
    """`latent_attend_cached` with the call's own latents. latent `[B, T, R]`, k_rope `[B, T, Dr]` -> `[B, T, H*Dv]`."""
    return latent_attend_cached(
        q_nope=q_nope,
        q_rope=q_rope,
        latents=latent[:, None],
        k_ropes=k_rope[:, None],
        key_position=position,
        kv_up=kv_up,
        position=position,
        nope_head_dim=nope_head_dim,
        rope_head_dim=rope_head_dim,
        v_head_dim=v_head_dim,
        scale=scale,
    )
