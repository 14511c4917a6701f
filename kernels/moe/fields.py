"""The arguments of `experts`, each said once: what every expert has inside, one expert, and a mixture of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from ..pointwise.reference import ActivationKind

Packing: TypeAlias = Literal["separate", "halves", "interleaved"]
Layout: TypeAlias = Literal["out_in", "in_out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """What makes inner units: stacks of matrices, outputs first or inputs first, and what is done with the products."""

    gate_proj: Tensor | None = None
    up_proj: Tensor | None = None
    gate_up_proj: Tensor | None = None
    gate_proj_bias: Tensor | None = None
    up_proj_bias: Tensor | None = None
    gate_up_proj_bias: Tensor | None = None
    activation: ActivationKind = "silu"
    packing: Packing = "separate"
    """Gate and up as two stacks, or in one: in two halves, or row by row in turn."""
    layout: Layout = "out_in"
    limit: float | None = None
    """The gate is at most, and up within, this."""
    up_offset: float = 0.0
    """Added to up where there is a gate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InnerUnits(Inside):
    """Of `inner_units`."""

    x: Tensor
    expert: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts(Inside):
    """Of `experts`."""

    x: Tensor
    weights: Tensor
    experts: Tensor
    down_proj: Tensor
    down_proj_bias: Tensor | None = None
    weighs: Literal["output", "input"] = "output"
    """What a pick's weight multiplies."""
