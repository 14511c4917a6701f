"""Latent attention for decode: the up-projection is moved from the cached tokens to the few new ones.

`q · (U_k c) = (U_kᵀ q) · c`, and `sum_s w_s (U_v c_s) = U_v (sum_s w_s c_s)` (DeepSeek-V2, section 2.1.2): each cached
token costs R + Dr multiplications a head instead of R * (Dn + Dv).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..attention.reference import visible_keys
from ..kernel import Request
from ..record import called_with
from .fields import LatentAttendCached


def serves(request: Request) -> str | None:
    """None for decode; with as many queries as keys, expanding is cheaper."""
    return None if request.phase == "decode" else "absorbing pays for one query at a time only"


@called_with(LatentAttendCached)
def latent_attend_cached(given: LatentAttendCached) -> Tensor:
    """Arguments and result are those of the reference; scores, softmax and sums are float32."""
    nope, rope, q_nope, q_rope = given.nope_head_dim, given.rope_head_dim, given.q_nope, given.q_rope
    wide = torch.promote_types(q_nope.dtype, torch.float32)
    up = given.kv_up.to(wide).view(-1, nope + given.v_head_dim, given.kv_up.shape[1])  # [H, Dn + Dv, R]
    up_key, up_value = up[:, :nope], up[:, nope:]
    cached, ropes = given.latents[:, 0].to(wide), given.k_ropes[:, 0].to(wide)  # [B, S, R], [B, S, Dr]
    by_head = q_nope.to(wide).view(*q_nope.shape[:-1], -1, nope).transpose(1, 2)  # [B, H, T, Dn]
    rotated = q_rope.to(wide).view(*q_rope.shape[:-1], -1, rope).transpose(1, 2)  # [B, H, T, Dr]
    scores = (by_head @ up_key) @ cached[:, None].transpose(-1, -2) + rotated @ ropes[:, None].transpose(-1, -2)
    scores = scores * given.factor
    visible = visible_keys(position=given.position, key_position=given.key_position, mask="causal")[:, None]
    scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)  # narrower under autocast
    weights = scores.softmax(-1).masked_fill(~visible, 0.0)
    out = (weights @ cached[:, None]) @ up_value.transpose(1, 2)  # [B, H, T, Dv]
    return out.transpose(1, 2).flatten(-2).to(q_nope.dtype)
