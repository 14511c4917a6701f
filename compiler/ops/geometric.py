"""Geometric: fixed numbers in a geometric progression, such as one decay for each head."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Inputs, Op, Port, TensorType


def _infer(fields: Fields, _inputs: Inputs) -> Mapping[str, TensorType]:
    return {"out": TensorType(shape=(fields.int("size"),), dtype="float32")}


GEOMETRIC = Op(
    name="geometric",
    summary="Fixed numbers start, start * ratio, start * ratio^2, …: one decay per head (RetNet, lightning attention)",
    ports=(Port(name="like", doc="[...], only for its device; float64 where it is float64, else float32"),),
    fields=(
        Field(name="size", kind="int", doc="How many numbers", is_required=True, minimum=1),
        Field(name="start", kind="float", doc="The first one", is_required=True, is_scalar=True),
        Field(name="ratio", kind="float", doc="Each one over the one before", is_required=True, is_scalar=True),
    ),
    infer=_infer,
    operands=("size", "start", "ratio"),
    reference="progression:geometric",
)
