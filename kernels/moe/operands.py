"""The stacked matrices of experts as kernels read them: one order of axes, gate and up told apart."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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


def inward(
    gate: Tensor | None,
    up: Tensor,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    *,
    packing: str,
    layout: str,
) -> Inward:
    """From the parameters of `experts`: with a packing, `up` is gate_up_proj and `gate` None."""
    if packing == "separate":
        gate = None if gate is None else rows_first(gate.contiguous(), layout)
        up = rows_first(up.contiguous(), layout)
        return Inward(gate=gate, up=up, gate_bias=gate_bias, up_bias=up_bias, is_interleaved=False)
    both = rows_first(up, layout)
    if packing == "interleaved":
        return Inward(gate=None, up=both, gate_bias=None, up_bias=up_bias, is_interleaved=True)
    inner = both.shape[1] // 2
    return Inward(
        gate=both[:, :inner],
        up=both[:, inner:],
        gate_bias=None if up_bias is None else up_bias[:, :inner],
        up_bias=None if up_bias is None else up_bias[:, inner:],
        is_interleaved=False,
    )


def rows_first(weight: Tensor, layout: str) -> Tensor:
    """`[E, out, in]`, as a view."""
    return weight if layout == "out_in" else weight.transpose(1, 2)
