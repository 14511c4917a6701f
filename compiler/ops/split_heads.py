"""Split heads: every head of the last axis cut into the same named parts."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Inputs, Op, Port, ShapeProblem, TensorType
from .shapes import known


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    sizes, x = fields.int_map("sizes"), inputs["x"]
    width, head_dim = known(x.features, "the input width", "x"), sum(sizes.values())
    if width % head_dim:
        raise ShapeProblem(
            f"the parts of a head add up to {head_dim}, which does not divide the width {width}", "sizes"
        )
    return {name: x.with_features(width // head_dim * size) for name, size in sizes.items()}


SPLIT_HEADS = Op(
    name="split_heads",
    summary="Cut every head of the last axis into the same named parts, read as `node:part`",
    ports=(Port(name="x", doc="[..., H*D]"),),
    fields=(Field(name="sizes", kind="int_map", doc="Part name -> size within a head, in order", is_required=True),),
    outputs_field="sizes",
    infer=_infer,
    operands=("sizes",),
    reference="layout:split_heads",
)
