"""Tile: the features repeated side by side."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Inputs, Op, Port, TensorType
from .shapes import known


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    return {"out": inputs["x"].with_features(known(inputs["x"].features, "the width", "x") * fields.int("times"))}


TILE = Op(
    name="tile",
    summary="The features again and again, side by side",
    ports=(Port(name="x", doc="[..., M]"),),
    fields=(Field(name="times", kind="int", doc="How often", is_required=True, minimum=1),),
    infer=_infer,
    operands=("times",),
    reference="layout:tile",
)
