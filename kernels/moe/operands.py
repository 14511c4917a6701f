"""The arguments of `experts` as kernels take them: one value for each choice of names, one order of axes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ..pointwise.reference import ActivationKind
from . import reference
from .fields import Experts, Layout, Packing


class Operands(NamedTuple):
    """A record of `experts` as operators of torch take it. With a packing, `up` is gate_up_proj."""

    x: Tensor
    weights: Tensor
    experts: Tensor
    gate: Tensor | None
    up: Tensor
    down: Tensor
    gate_bias: Tensor | None
    up_bias: Tensor | None
    down_bias: Tensor | None
    activation: str
    packing: str
    layout: str
    limit: float
    """Infinite where there is none."""
    up_offset: float
    weighs: str

    @staticmethod
    def of(given: Experts) -> Operands:
        """What a record says."""
        both = given.gate_up_proj is not None
        up = given.gate_up_proj if both else given.up_proj
        assert up is not None
        return Operands(
            given.x, given.weights, given.experts, given.gate_proj, up, given.down_proj, given.gate_proj_bias,
            given.gate_up_proj_bias if both else given.up_proj_bias, given.down_proj_bias, given.activation,
            given.packing if both else "separate", given.layout, math.inf if given.limit is None else given.limit,
            given.up_offset, given.weighs,
        )  # fmt: skip

    def record(self) -> Experts:
        """The same for a reference."""
        both = self.packing != "separate"
        return Experts(
            x=self.x, weights=self.weights, experts=self.experts, gate_proj=self.gate, down_proj=self.down,
            up_proj=None if both else self.up, gate_up_proj=self.up if both else None, gate_proj_bias=self.gate_bias,
            up_proj_bias=None if both else self.up_bias, gate_up_proj_bias=self.up_bias if both else None,
            down_proj_bias=self.down_bias, activation=cast("ActivationKind", self.activation),
            packing=cast("Packing", self.packing), layout=cast("Layout", self.layout),
            limit=None if math.isinf(self.limit) else self.limit, up_offset=self.up_offset,
            weighs="input" if self.weighs == "input" else "output",
        )  # fmt: skip

    def dense(self) -> Operands:
        """The same, tokens and picks side by side."""
        return self._replace(
            x=self.x.contiguous(), weights=self.weights.contiguous(), experts=self.experts.contiguous()
        )

    def inward(self) -> Inward:
        """Its matrices that make inner units."""
        if self.packing == "separate":
            gate = None if self.gate is None else rows_first(self.gate.contiguous(), self.layout)
            up = rows_first(self.up.contiguous(), self.layout)
            return Inward(gate=gate, up=up, gate_bias=self.gate_bias, up_bias=self.up_bias, is_interleaved=False)
        both, bias = rows_first(self.up, self.layout), self.up_bias
        if self.packing == "interleaved":
            return Inward(gate=None, up=both, gate_bias=None, up_bias=bias, is_interleaved=True)
        inner = both.shape[1] // 2
        return Inward(
            gate=both[:, :inner],
            up=both[:, inner:],
            gate_bias=None if bias is None else bias[:, :inner],
            up_bias=None if bias is None else bias[:, inner:],
            is_interleaved=False,
        )

    def outward(self) -> Tensor:
        """Its matrices that make outputs, `[E, M, F]`, with strides of their own."""
        return rows_first(self.down.contiguous(), self.layout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inward:
    """What makes the inner units. Views of the parameters, so that nothing is copied.

    gate and up `[E, F, M]` with strides of their own, alike in both; biases `[E, F]`. Where they are interleaved, `up`
    is the whole `[E, 2F, M]` and its bias `[E, 2F]`, and gate is None.
    """

    gate: Tensor | None
    up: Tensor
    gate_bias: Tensor | None
    up_bias: Tensor | None
    is_interleaved: bool

    @property
    def is_gated(self) -> bool:
        return self.gate is not None or self.is_interleaved

    @property
    def inner(self) -> int:
        """F, the units inside one expert."""
        return self.up.shape[1] // 2 if self.is_interleaved else self.up.shape[1]


def rows_first(weight: Tensor, layout: str) -> Tensor:
    """`[E, out, in]`, as a view."""
    return weight if layout == "out_in" else weight.transpose(1, 2)


def empty(given: Operands) -> Tensor:
    """Room for the result."""
    return torch.empty_like(given.x, memory_format=torch.contiguous_format)


def by_reference(given: Operands) -> Tensor:
    """What operators on plain weights give."""
    return reference.experts.of(given.record()).contiguous()
