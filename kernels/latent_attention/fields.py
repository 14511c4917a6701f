"""The arguments of latent attention, each said once: over a call's own latents and over cached ones."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..cache.fields import KvAppend, KvState
from ..record import shared


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """What both forms take."""

    q_nope: Tensor
    q_rope: Tensor
    kv_up: Tensor
    position: Tensor
    nope_head_dim: int
    rope_head_dim: int
    v_head_dim: int
    scale: float | None = None
    """Absent: `1 / sqrt(Dn + Dr)`."""
    plan: Tensor | None = None
    """As `Attend` of attention has it."""
    key_plan: Tensor | None = None

    @property
    def factor(self) -> float:
        """What scores are multiplied by."""
        return (self.nope_head_dim + self.rope_head_dim) ** -0.5 if self.scale is None else self.scale


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttendCached(Latent):
    """Of `latent_attend_cached`."""

    latents: Tensor
    k_ropes: Tensor
    key_position: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention(Latent):
    """Of `latent_attention`."""

    latent: Tensor
    k_rope: Tensor

    def cached(self) -> LatentAttendCached:
        """The same over latents that lie as in a cache."""
        return LatentAttendCached(
            latents=self.latent[:, None],
            k_ropes=self.k_rope[:, None],
            key_position=self.position,
            **shared(self, Latent),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAppend:
    """Of `kv_latent_append`."""

    state: KvState
    latent: Tensor
    k_rope: Tensor
    position: Tensor
    lengths: Tensor
    rank: int
    rope_dim: int
    is_static: bool = False

    def by_head(self) -> KvAppend:
        """One head, whose key is the latent and whose value is the turned part."""
        return KvAppend(
            state=self.state,
            k=self.latent,
            v=self.k_rope,
            position=self.position,
            lengths=self.lengths,
            heads=1,
            key_dim=self.rank,
            value_dim=self.rope_dim,
            is_static=self.is_static,
        )
