"""Split: the last axis cut into named parts."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Inputs, Op, Port, ShapeProblem, TensorType
from .shapes import known


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    sizes, x = fields.int_map("sizes"), inputs["x"]
    width = known(x.features, "the input width", "x")
    if sum(sizes.values()) != width:
        listed = " + ".join(str(size) for size in sizes.values())
        raise ShapeProblem(f"the parts add up to {listed} = {sum(sizes.values())}, but x is {width} wide", "sizes")
    return {name: x.with_features(size) for name, size in sizes.items()}


SPLIT = Op(
    name="split",
    summary="Cut the last axis into named parts, read as `node:part`",
    ports=(Port(name="x", doc="[..., M]"),),
    fields=(Field(name="sizes", kind="int_map", doc="Part name -> width, in order", is_required=True),),
    outputs_field="sizes",
    infer=_infer,
    operands=("sizes",),
    reference="pointwise:split",
)
