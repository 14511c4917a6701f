"""Add: the sum of two values, a residual connection."""

from __future__ import annotations

from .costs import one_flop
from .declaration import Op, Port
from .shapes import broadcast

ADD = Op(
    name="add",
    summary="a + b: a residual connection",
    ports=(Port(name="a", doc="[..., M]"), Port(name="b", doc="[..., M], broadcast like torch")),
    infer=broadcast,
    flops=one_flop,
    reference="pointwise:add",
)
