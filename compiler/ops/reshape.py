"""Reshape: the same elements under other trailing axes."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import cast

from .declaration import Field, Fields, Inputs, Op, Port, ShapeProblem, TensorType
from .shapes import known


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    x, keep, shape = inputs["x"], fields.int("keep"), tuple(cast("list[int]", fields["shape"]))
    moved = [known(dim, "an axis that is reshaped", "x") for dim in x.shape[keep:]]
    if prod(moved) != prod(shape):
        raise ShapeProblem(f"{moved} has {prod(moved)} elements, {list(shape)} has {prod(shape)}", "shape")
    return {"out": TensorType(shape=(*x.shape[:keep], *shape), dtype=x.dtype)}


RESHAPE = Op(
    name="reshape",
    summary="The same elements under other trailing axes",
    ports=(Port(name="x", doc="[...]"),),
    fields=(
        Field(name="keep", kind="int", doc="Leading axes that stay: 2 for batch and tokens", default=2, minimum=0),
        Field(name="shape", kind="int_list", doc="The axes after them", is_required=True, minimum=1),
    ),
    infer=_infer,
    operands=("keep", "shape"),
    reference="layout:reshape",
)
