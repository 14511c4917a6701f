"""The arguments of attention, each said once: over a call's own tokens, a cache or its pages, and after an append."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor

from ..cache.fields import KvAppend, KvState, KvWindowAppend, RopeKvAppend, RopeKvWindowAppend
from ..record import shared
from ..rope.fields import RopeLayout

MaskKind: TypeAlias = Literal["causal", "bidirectional"]
PlannedKeys: TypeAlias = Literal["tokens", "cache", "ring"]
"""What the columns of a plan are. `tokens`: those of a call; `cache`: slots of a cache that keeps every token, at its
position; `ring`: those of the call, behind the slots of a ring as it was before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What every form of attention does with its scores, and which of them it takes."""

    window: int | None = None
    """Only keys less than so many positions away are seen."""
    chunk: int | None = None
    """Only keys of the query's own run of so many positions are seen."""
    scale: float | None = None
    """Absent: `1 / sqrt(D)`."""
    softcap: float | None = None
    """Bends the scaled scores: `softcap * tanh(score / softcap)` (Gemma 2)."""
    alibi: bool = False
    """Adds `-slope * |query - key|`, each head with its slope."""
    distance_bias: Tensor | None = None
    """`[H, 2 * R + 1]`, added by `key - query`, at most R either way (`reference.bias_by_distance`)."""
    sink: Tensor | None = None
    """`[H]`: one more logit a head, whose value is zero (gpt-oss)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedScores(Scores):
    """And where tokens that come later may be seen too."""

    mask: MaskKind = "causal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attend(MaskedScores):
    """What a node of attention says, whatever keys it reads."""

    head_dim: int
    v_head_dim: int | None = None
    """Absent: that of the keys."""
    dropout: float = 0.0
    """The part of the weights that is left out in training."""
    training: bool = False
    bias: Tensor | None = None
    """`[1 or H, T, S]`, added to the scores."""
    plan: Tensor | None = None
    """`MaskPlan` of this mask by queries: what saves a kernel finding out which keys to visit. It changes nothing."""
    key_plan: Tensor | None = None
    """The same by keys, for gradients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttendCached(Attend):
    """Of `attend_cached`."""

    q: Tensor
    keys: Tensor
    values: Tensor
    key_position: Tensor
    position: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class AttendScaled(AttendCached):
    """Of `attend_scaled`: a cache that may be narrower than q."""

    key_scale: Tensor | None = None
    value_scale: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention(Attend):
    """Of `attention`."""

    q: Tensor
    k: Tensor
    v: Tensor
    position: Tensor
    key_position: Tensor | None = None

    def cached(self) -> AttendCached:
        """The same over keys that lie as in a cache."""
        heads = self.k.shape[-1] // self.head_dim
        return AttendCached(
            q=self.q,
            keys=self.k.view(*self.k.shape[:-1], heads, self.head_dim).transpose(1, 2),
            values=self.v.view(*self.v.shape[:-1], heads, self.v_head_dim or self.head_dim).transpose(1, 2),
            key_position=self.position if self.key_position is None else self.key_position,
            position=self.position,
            **shared(self, Attend),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AttendPaged(MaskedScores):
    """Of `attend_paged`."""

    q: Tensor
    keys: Tensor
    values: Tensor
    block_table: Tensor
    lengths: Tensor
    position: Tensor
    head_dim: int
    key_scale: Tensor | None = None
    value_scale: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttendPacked(MaskedScores):
    """Of `attend_packed`."""

    q: Tensor
    k: Tensor
    v: Tensor
    cu_seqlens: Tensor
    cu_seqlens_k: Tensor | None = None
    max_seqlen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendAttend(Scores):
    """Of `append_attend`, which is causal."""

    state: KvState
    q: Tensor
    k: Tensor
    v: Tensor
    position: Tensor
    lengths: Tensor
    heads: int
    key_dim: int
    value_dim: int
    ring: int | None = None
    table: Tensor | None = None
    rotary_dim: int | None = None
    layout: RopeLayout = "half"
    q_norm_weight: Tensor | None = None
    k_norm_weight: Tensor | None = None
    norm_eps: float = 0.0
    norm_offset: float = 0.0
    plan: Tensor | None = None
    """As `Attend` has it."""
    is_static: bool = False

    def appending(self, q: Tensor, k: Tensor) -> KvAppend:
        """What there is to do first, with heads of q and k as they are after their norms."""
        own: dict[str, Any] = {**shared(self, KvAppend), "k": k}
        if self.table is None:
            return KvAppend(**own) if self.ring is None else KvWindowAppend(**own, window=self.ring)
        own |= {"q": q, "table": self.table, "rotary_dim": self.rotary_dim, "layout": self.layout}
        return RopeKvAppend(**own) if self.ring is None else RopeKvWindowAppend(**own, window=self.ring)

    def attending(self, q: Tensor, keys: Tensor, values: Tensor, key_position: Tensor) -> AttendCached:
        """What is left to do once the cache holds the new keys, and the queries are turned."""
        return AttendCached(
            q=q,
            keys=keys,
            values=values,
            key_position=key_position,
            position=self.position,
            head_dim=self.key_dim,
            v_head_dim=self.value_dim,
            plan=self.plan,
            **shared(self, Scores),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskPlan:
    """Of `mask_plan`."""

    position: Tensor
    key_position: Tensor | None = None
    """Of `tokens` on another axis; absent: position."""
    lengths: Tensor | None = None
    """`[B]` int64, the tokens of each row that a ring has seen before."""
    keys: PlannedKeys = "tokens"
    mask: MaskKind = "causal"
    window: int | None = None
    chunk: int | None = None
    by_keys: bool = False
    """Rows are keys and columns queries, as gradients of keys need them."""

    @property
    def can_be_made(self) -> bool:
        """A single query reads a ring itself, and beams share the keys of their prompt: these have no plan."""
        batch, tokens = self.position.shape
        is_alike = self.key_position is None or self.key_position.shape[0] == batch
        return is_alike and not (self.keys == "ring" and tokens == 1)
