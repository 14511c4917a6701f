"""The arguments of `rope` and of its two halves, each said once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from ..record import shared

RopeScaling: TypeAlias = Literal["none", "linear", "dynamic", "llama3", "yarn", "longrope", "proportional"]
RopeLayout: TypeAlias = Literal["half", "interleaved"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeLaw:
    """How fast pairs turn, and how that is stretched to longer contexts: `rope_table` says which scaling reads what."""

    theta: float = 10000.0
    scaling: RopeScaling = "none"
    factor: float | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_seq_len: int | None = None
    max_seq_len: int | None = None
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    mscale: float | None = None
    mscale_all_dim: float | None = None
    short_factor: Sequence[float] | None = None
    long_factor: Sequence[float] | None = None
    rotary_fraction: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeTable(RopeLaw):
    """Of `rope_table`."""

    position: Tensor
    rotary_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope(RopeLaw):
    """Of `rope`."""

    x: Tensor
    position: Tensor
    head_dim: int
    rotary_dim: int | None = None
    layout: RopeLayout = "half"

    def table(self) -> RopeTable:
        """What its first half takes."""
        return RopeTable(position=self.position, rotary_dim=self.rotary_dim or self.head_dim, **shared(self, RopeLaw))
