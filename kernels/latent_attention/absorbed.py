"""Latent attention for decode: the up-projection is moved from the cached tokens to the few new ones.

`q · (U_k c) = (U_kᵀ q) · c`, and `sum_s w_s (U_v c_s) = U_v (sum_s w_s c_s)` (DeepSeek-V2, section 2.1.2): each cached
token costs R + Dr multiplications a head instead of R * (Dn + Dv).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..attention.reference import visible_keys
from ..kernel import Request


def serves(request: Request) -> str | None:
    """None for decode; with as many queries as keys, expanding is cheaper."""
    return None if request.phase == "decode" else "absorbing pays for one query at a time only"


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
    """Arguments and result are those of the reference; scores, softmax and sums are float32."""
    wide = torch.promote_types(q_nope.dtype, torch.float32)
    factor = (nope_head_dim + rope_head_dim) ** -0.5 if scale is None else scale
    up = kv_up.to(wide).view(-1, nope_head_dim + v_head_dim, kv_up.shape[1])  # [H, Dn + Dv, R]
    up_key, up_value = up[:, :nope_head_dim], up[:, nope_head_dim:]
    cached, ropes = latents[:, 0].to(wide), k_ropes[:, 0].to(wide)  # [B, S, R], [B, S, Dr]
    by_head = q_nope.to(wide).view(*q_nope.shape[:-1], -1, nope_head_dim).transpose(1, 2)  # [B, H, T, Dn]
    rotated = q_rope.to(wide).view(*q_rope.shape[:-1], -1, rope_head_dim).transpose(1, 2)  # [B, H, T, Dr]
    scores = (by_head @ up_key) @ cached[:, None].transpose(-1, -2) + rotated @ ropes[:, None].transpose(-1, -2)
    visible = visible_keys(position=position, key_position=key_position, mask="causal")[:, None]  # [B, 1, T, S]
    scores = (scores * factor).masked_fill(~visible, torch.finfo(wide).min)
    weights = scores.softmax(-1).masked_fill(~visible, 0.0)
    out = (weights @ cached[:, None]) @ up_value.transpose(1, 2)  # [B, H, T, Dv]
    return out.transpose(1, 2).flatten(-2).to(q_nope.dtype)
