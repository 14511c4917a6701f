"""Slice: a run of features."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Inputs, Op, Port, ShapeProblem, TensorType
from .shapes import known


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    width, start, size = known(inputs["x"].features, "the input width", "x"), fields.int("start"), fields.int("size")
    if start + size > width:
        raise ShapeProblem(f"features {start} to {start + size} lie beyond the input width {width}", "start")
    return {"out": inputs["x"].with_features(size)}


SLICE = Op(
    name="slice",
    summary="A run of features; where it starts may differ by layer",
    ports=(Port(name="x", doc="[..., M]"),),
    fields=(
        Field(name="start", kind="int", doc="First feature", is_required=True, is_scalar=True, minimum=0),
        Field(name="size", kind="int", doc="Number of features", is_required=True, minimum=1),
    ),
    infer=_infer,
    operands=("start", "size"),
    reference="layout:slice_features",
)
