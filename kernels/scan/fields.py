"""The arguments of a scan, each said once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from ..continued import State

DecayShape: TypeAlias = Literal["none", "head", "state", "token_head", "token_channel"]
DecayForm: TypeAlias = Literal["log", "A_log"]
Update: TypeAlias = Literal["add", "delta", "erase_write"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """Of `scan`; `reference` says what each means."""

    v: Tensor
    k: Tensor
    q: Tensor
    position: Tensor
    key_dim: int
    value_dim: int
    decay: Tensor | None = None
    dt: Tensor | None = None
    beta: Tensor | None = None
    erase: Tensor | None = None
    write: Tensor | None = None
    skip: Tensor | None = None
    decay_per: DecayShape = "none"
    decay_form: DecayForm = "log"
    update: Update = "add"
    scale: float = 1.0
    chunk_size: int = 64
    """A hint to kernels."""

    @property
    def heads(self) -> int:
        """How many states a row has."""
        return self.v.shape[-1] // self.value_dim

    @property
    def is_per_channel(self) -> bool:
        """Each element of a key forgets at a rate of its own."""
        return self.decay_per in ("state", "token_channel")

    @property
    def has_one_factor(self) -> bool:
        """All that happens to a head's state, before a token is added, is one factor."""
        others = (self.beta, self.erase, self.write)
        return self.update == "add" and not self.is_per_channel and all(x is None for x in others)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanFrom(Scan):
    """And on from a state: `S` of every head, `[B, H, Dk, Dv]` float32."""

    state: State
