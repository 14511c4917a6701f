"""Lerp: linear interpolation between two values."""

from __future__ import annotations

from collections.abc import Mapping

from .add import ADD
from .costs import one_flop
from .declaration import Fields, Inputs, Op, Port, ShapeProblem, TensorType
from .shapes import broadcast


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    a = inputs["a"]
    for port in ("b", "weight"):
        found = broadcast(fields, {"a": a, "b": inputs[port]})["out"]
        if found.shape != a.shape:
            raise ShapeProblem(f"{port} must broadcast to {a}, but it is {inputs[port]}", port)
    return {"out": a}


LERP = Op(
    name="lerp",
    summary="a + (b - a) * weight",
    ports=(*ADD.ports, Port(name="weight", doc="broadcast to a")),
    infer=_infer,
    flops=one_flop,
    reference="pointwise:lerp",
)
