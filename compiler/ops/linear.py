"""Linear: `y = x Wᵀ + b` over the last axis."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Init, Inputs, Op, ParameterSpec, Port, Sizes, TensorType, known


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    known(inputs["x"].features, "the input width", "x")
    return {"out": inputs["x"].with_features(fields.int("features"))}


def _parameters(fields: Fields, inputs: Inputs) -> tuple[ParameterSpec, ...]:
    out, width = fields.int("features"), known(inputs["x"].features, "the input width", "x")
    weight = ParameterSpec(
        name="weight",
        shape=(out, width),
        init=Init(kind="normal", value=fields.float("init_std")),
        is_transposed=fields.str("layout") == "in_out",
    )
    if not fields.bool("bias"):
        return (weight,)
    return (weight, ParameterSpec(name="bias", shape=(out,), init=Init(kind="zeros")))


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
        Field(name="init_std", kind="float", doc="Standard deviation of a fresh weight", default=0.02, minimum=0),
    ),
    infer=_infer,
    parameters=_parameters,
    flops=_flops,
    reference="linear:linear",
)
