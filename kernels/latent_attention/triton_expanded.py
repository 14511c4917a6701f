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
from ..record import called_with
from .fields import LatentAttendCached, LatentAttention


def serves(request: Request) -> str | None:
    """None, or why attention over the expanded keys does not serve."""
    if request.phase == "decode" and request.op == "latent_attend_cached":
        return "one query a row is for the kernels of decoding"
    nope, rope = request.fields["nope_head_dim"], request.fields["rope_head_dim"]
    assert isinstance(nope, int)
    assert isinstance(rope, int)
    fields = {"head_dim": nope + rope, "v_head_dim": request.fields["v_head_dim"]}
    return triton_attention.serves(replace(request, op="attention", fields=fields))


@called_with(LatentAttendCached)
def latent_attend_cached(given: LatentAttendCached) -> Tensor:
    """Arguments and result are those of the reference."""
    nope, width = given.nope_head_dim, given.v_head_dim
    heads, slots = given.q_nope.shape[-1] // nope, given.latents.shape[2]
    expanded = (given.latents[:, 0] @ given.kv_up.T).view(-1, slots, heads, nope + width)  # [B, S, H, Dn + Dv]
    ropes = given.k_ropes.transpose(1, 2).expand(-1, -1, heads, -1)  # [B, S, H, Dr]
    keys = torch.cat((expanded[..., :nope], ropes), dim=-1)
    q = torch.cat([part.view(*given.position.shape, heads, -1) for part in (given.q_nope, given.q_rope)], dim=-1)
    return triton_attention.attend_cached(
        q=q.flatten(-2),
        keys=keys.transpose(1, 2),
        values=expanded[..., nope:].transpose(1, 2),
        key_position=given.key_position,
        position=given.position,
        head_dim=nope + given.rope_head_dim,
        v_head_dim=width,
        scale=given.scale,
        plan=given.plan,
        key_plan=given.key_plan,
    )


@called_with(LatentAttention)
def latent_attention(given: LatentAttention) -> Tensor:
    """Arguments and result are those of the reference, gradients included."""
    return latent_attend_cached.of(given.cached())
