"""Latent attention of a prompt, and of training: keys and values are expanded, then the Triton kernel for many queries.

Expanding costs `2 S R H (Dn + Dv)` operations, and attention over keys of `Dn + Dr` rather than `R + Dr` numbers saves
more than that as soon as there are more queries than a few hundred.
"""

# pyright: basic, reportGeneralTypeIssues=false
from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..attention import triton_attention
from ..kernel import Request


def serves(request: Request) -> str | None:
    """None, or why attention over the expanded keys does not serve."""
    if request.phase == "decode" and request.op == "latent_attend_cached":
        return "one query a row is for the kernels of decoding"
    nope, rope = request.fields["nope_head_dim"], request.fields["rope_head_dim"]
    assert isinstance(nope, int)
    assert isinstance(rope, int)
    fields = {"head_dim": nope + rope, "v_head_dim": request.fields["v_head_dim"]}
    return triton_attention.serves(replace(request, op="attention", fields=fields))


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
    """Arguments and result are those of the reference."""
    heads, slots = q_nope.shape[-1] // nope_head_dim, latents.shape[2]
    expanded = (latents[:, 0] @ kv_up.T).view(-1, slots, heads, nope_head_dim + v_head_dim)  # [B, S, H, Dn + Dv]
    ropes = k_ropes.transpose(1, 2).expand(-1, -1, heads, -1)  # [B, S, H, Dr]
    keys = torch.cat((expanded[..., :nope_head_dim], ropes), dim=-1)
    q = torch.cat([part.view(*position.shape, heads, -1) for part in (q_nope, q_rope)], dim=-1)
    return triton_attention.attend_cached(
        q=q.flatten(-2),
        keys=keys.transpose(1, 2),
        values=expanded[..., nope_head_dim:].transpose(1, 2),
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
    """Arguments and result are those of the reference, gradients included."""
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
