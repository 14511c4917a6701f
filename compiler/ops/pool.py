"""Pool: one vector for each sequence."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Inputs, Op, Port, ShapeProblem, TensorType


def _infer(_fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    x = inputs["x"]
    if len(x.shape) != 3:
        raise ShapeProblem(f"only [B, T, M] can be pooled, but x is {x}", "x")
    return {"out": TensorType(shape=(x.shape[0], x.shape[-1]), dtype=x.dtype)}


POOL = Op(
    name="pool",
    summary="One vector per sequence; padding is left out",
    ports=(Port(name="x", doc="[B, T, M]"),),
    fields=(
        Field(
            name="kind",
            kind="str",
            doc="Which token, or which mean",
            is_required=True,
            choices=("first", "last", "mean", "max"),
        ),
    ),
    infer=_infer,
    operands=("kind",),
    ambient=("position",),
    is_tokenwise=False,
    reference="pointwise:pool",
)
