"""Mul: the product of two values, a gate."""

from __future__ import annotations

from .add import ADD
from .costs import one_flop
from .declaration import Op
from .shapes import broadcast

MUL = Op(
    name="mul",
    summary="a * b: a gate",
    ports=ADD.ports,
    infer=broadcast,
    flops=one_flop,
    reference="pointwise:mul",
)
