"""Concat: values side by side along the last axis."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Inputs, Op, Port, ShapeProblem, TensorType
from .shapes import known


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    types, heads = list(inputs.values()), fields.int("heads")
    for name, other in inputs.items():
        if other.shape[:-1] != types[0].shape[:-1]:
            raise ShapeProblem(f"cannot concatenate {types[0]} and {other}", name)
        if known(other.features, "the width of a part", name) % heads:
            raise ShapeProblem(f"{heads} heads do not divide the width of {other}", "heads")
    width = sum(known(t.features, "the width of a part", name) for name, t in inputs.items())
    return {"out": types[0].with_features(width)}


CONCAT = Op(
    name="concat",
    summary="Join along the last axis",
    ports=(Port(name="xs", doc="two or more of [..., M_i]", is_variadic=True),),
    fields=(Field(name="heads", kind="int", doc="Join the parts head by head, of so many", default=1, minimum=1),),
    infer=_infer,
    operands=("heads",),
    reference="pointwise:concat",
)
