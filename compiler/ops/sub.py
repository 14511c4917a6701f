"""Sub: the difference of two values."""

from __future__ import annotations

from .add import ADD
from .costs import one_flop
from .declaration import Op
from .shapes import broadcast

SUB = Op(
    name="sub",
    summary="a - b",
    ports=ADD.ports,
    infer=broadcast,
    flops=one_flop,
    reference="pointwise:sub",
)
