"""The arguments of ternary layers, each said once: of a layer, of several as one, and with what stands before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..pointwise.reference import ActivationKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Ternary:
    """What every ternary layer has."""

    weight: Tensor
    bias: Tensor | None = None
    activation_bits: int | None = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection(Ternary):
    """Several that read the same, whose matrices stand in one weight."""

    parts: Sequence[int] | None = None
    """The rows of each matrix; absent: it is one."""
    kind: ActivationKind | None = None
    """Of a gate: the halves of the result are `activation(g) * u`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NormedProjection(Projection):
    """The same after an RMS norm."""

    norm_weight: Tensor | None = None
    eps: float
    weight_offset: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TernaryLinear(Ternary):
    """Of `ternary_linear`."""

    x: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TernaryProjection(Projection):
    """Of `ternary_projection`."""

    x: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class RmsNormTernaryProjection(NormedProjection):
    """Of `rms_norm_ternary_projection`."""

    x: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class AddRmsNormTernaryProjection(NormedProjection):
    """Of `add_rms_norm_ternary_projection`."""

    delta: Tensor
    residual: Tensor
