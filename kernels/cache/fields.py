"""The arguments of the appends to a cache, each said once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from ..rope.fields import RopeLayout

KvState: TypeAlias = tuple[Tensor, ...]
"""Keys `[B, Hkv, slots, D]` and values `[B, Hkv, slots, Dv]`; of float8 with the scales of both, `[B, Hkv, slots]`."""
Appended: TypeAlias = tuple[KvState, Tensor, Tensor, Tensor]
"""The state, and what may be read: keys, values, key_position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvAppend:
    """Of `kv_full_append`; `reference` says what each means."""

    state: KvState
    k: Tensor
    v: Tensor
    position: Tensor
    lengths: Tensor
    heads: int
    key_dim: int
    value_dim: int
    is_static: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KvWindowAppend(KvAppend):
    """Of `kv_window_append`."""

    window: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeKvAppend(KvAppend):
    """Of `rope_kv_full_append`."""

    table: Tensor
    rotary_dim: int | None = None
    layout: RopeLayout = "half"
    q: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeKvWindowAppend(RopeKvAppend):
    """Of `rope_kv_window_append`."""

    window: int
