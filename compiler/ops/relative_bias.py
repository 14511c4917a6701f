"""Relative bias: one learned number per head and bucket of distance (T5, Raffel et al. 2020, section 2.1)."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Inputs, Op, ParameterSpec, ShapeProblem, TensorType
from .learned import normal_init


def _infer(fields: Fields, _inputs: Inputs) -> Mapping[str, TensorType]:
    per_side = fields.int("num_buckets") // (2 if fields.bool("bidirectional") else 1)
    if per_side < 2:
        raise ShapeProblem("a side of the distances needs at least two buckets", "num_buckets")
    if fields.int("max_distance") <= per_side // 2:
        remedy = f"give more than {per_side // 2}, half of the buckets of a side: those hold one distance each"
        raise ShapeProblem("no distance is left for the logarithmic buckets", "max_distance", help=remedy)
    return {"out": TensorType(shape=(fields.int("num_heads"), 2 * fields.int("max_distance") + 1))}


def _parameters(fields: Fields, _inputs: Inputs) -> tuple[ParameterSpec, ...]:
    return (
        ParameterSpec(
            name="weight", shape=(fields.int("num_buckets"), fields.int("num_heads")), init=normal_init(fields)
        ),
    )


RELATIVE_BIAS = Op(
    name="relative_bias",
    summary="A bias for each distance from -max_distance to max_distance, out of logarithmic buckets",
    ports=(),
    fields=(
        Field(name="num_heads", kind="int", doc="Query heads", is_required=True, minimum=1),
        Field(name="num_buckets", kind="int", doc="Learned biases per head", default=32, minimum=2),
        Field(name="max_distance", kind="int", doc="Farther tokens share the last bucket", default=128, minimum=1),
        Field(name="bidirectional", kind="bool", doc="Half of the buckets are for later tokens", default=False),
        Field(name="init_std", kind="float", doc="Standard deviation of a fresh table", default=0.02, minimum=0),
    ),
    infer=_infer,
    parameters=_parameters,
    operands=("max_distance", "bidirectional"),
    reference="attention:relative_bias",
)
