"""Linear: `y = x Wᵀ + b` over the last axis."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Inputs, Op, ParameterSpec, Port, Sizes, TensorType
from .learned import INIT_STD, learned_bias, normal_init
from .shapes import known


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    known(inputs["x"].features, "the input width", "x")
    return {"out": inputs["x"].with_features(fields.int("features"))}


def _parameters(fields: Fields, inputs: Inputs) -> tuple[ParameterSpec, ...]:
    out, width = fields.int("features"), known(inputs["x"].features, "the input width", "x")
    weight = ParameterSpec(
        name="weight",
        shape=(out, width),
        init=normal_init(fields),
        is_transposed=fields.str("layout") == "in_out",
    )
    return (weight, *learned_bias(fields, out))


def _flops(fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    return 2.0 * inputs["x"].count(sizes) * fields.int("features")


LINEAR = Op(
    name="linear",
    summary="Matrix product over the last axis, with an optional bias",
    ports=(Port(name="x", doc="[..., I]"),),
    fields=(
        Field(name="features", kind="int", doc="Output width", is_required=True, minimum=1),
        Field(name="bias", kind="bool", doc="Add a learned bias", default=False),
        Field(
            name="layout",
            kind="str",
            doc="Axis order of the weight in the checkpoint: out_in (nn.Linear) or in_out (Conv1D)",
            default="out_in",
            choices=("out_in", "in_out"),
        ),
        INIT_STD,
    ),
    infer=_infer,
    parameters=_parameters,
    flops=_flops,
    reference="linear:linear",
)
