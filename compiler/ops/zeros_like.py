"""Zeros of another value's shape: what a rotated residual starts from."""

from __future__ import annotations

from .declaration import Op, Port
from .shapes import same_as_input

ZEROS_LIKE = Op(
    name="zeros_like",
    summary="Zeros of x's shape: the residual of a rotated block's first instance",
    ports=(Port(name="x", doc="[...]"),),
    infer=same_as_input,
    reference="pointwise:zeros_like",
    is_internal=True,
)
