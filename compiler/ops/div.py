"""Div: the quotient of two values."""

from __future__ import annotations

from .add import ADD
from .costs import one_flop
from .declaration import Op
from .shapes import broadcast

DIV = Op(
    name="div",
    summary="a / b",
    ports=ADD.ports,
    infer=broadcast,
    flops=one_flop,
    reference="pointwise:div",
)
