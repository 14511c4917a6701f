"""Embedding: rows of a table picked by integer ids (tokens, positions, token types)."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Inputs, Op, ParameterSpec, Port, ShapeProblem, TensorType
from .learned import normal_init


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    ids = inputs["ids"]
    if ids.dtype != "int64":
        raise ShapeProblem(f"an embedding is indexed by integers, but its input is {ids}", "ids")
    return {"out": TensorType(shape=(*ids.shape, fields.int("features")))}


def _parameters(fields: Fields, _inputs: Inputs) -> tuple[ParameterSpec, ...]:
    rows = fields.int("rows") + fields.int("offset")
    return (ParameterSpec(name="weight", shape=(rows, fields.int("features")), init=normal_init(fields)),)


EMBEDDING = Op(
    name="embedding",
    summary="Look up one row of a learned table per id",
    ports=(Port(name="ids", doc="[B, T] int64; `position` gives learned absolute positions"),),
    fields=(
        Field(name="rows", kind="int", doc="Number of ids", is_required=True, minimum=1),
        Field(name="features", kind="int", doc="Width of a row", is_required=True, minimum=1),
        Field(name="offset", kind="int", doc="Added to every id (OPT and RoBERTa positions); adds rows", default=0),
        Field(name="scale", kind="float", doc="Multiplies the row", default=1.0),
        Field(name="init_std", kind="float", doc="Standard deviation of a fresh table", default=0.02, minimum=0),
    ),
    infer=_infer,
    parameters=_parameters,
    operands=("offset", "scale"),
    reference="embedding:embedding",
)
