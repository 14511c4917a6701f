"""Norms over groups of features: group norm with its affine over the full width, and unit length."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Init, Inputs, Op, ParameterSpec, Port, ShapeProblem, Sizes, TensorType, known


def _width(inputs: Inputs) -> int:
    return known(inputs["x"].features, "the normalised width", "x")


def _divided(parts: int, width: int, at: str) -> None:
    if width % parts:
        raise ShapeProblem(f"{at} {parts} does not divide the input width {width}", at)


def _infer_group(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    _divided(fields.int("num_groups"), _width(inputs), "num_groups")
    return {"out": inputs["x"]}


def _parameters(fields: Fields, inputs: Inputs) -> tuple[ParameterSpec, ...]:
    weight = ParameterSpec(name="weight", shape=(_width(inputs),), init=Init(kind="ones"))
    if not fields.bool("bias"):
        return (weight,)
    return (weight, ParameterSpec(name="bias", shape=(_width(inputs),), init=Init(kind="zeros")))


def _infer_l2(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    _divided(fields.opt_int("head_dim") or 1, _width(inputs), "head_dim")
    return {"out": inputs["x"]}


def _flops(_fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    return 5.0 * inputs["x"].count(sizes)


GROUP_NORM = Op(
    name="group_norm",
    summary="Normalise each group of features, then weight and bias over the full width",
    ports=(Port(name="x", doc="[..., M]"),),
    fields=(
        Field(name="num_groups", kind="int", doc="Number of groups", is_required=True, minimum=1),
        Field(name="eps", kind="float", doc="Added to the variance", is_required=True, minimum=0),
        Field(name="centre", kind="bool", doc="Subtract the mean; false: divide by the RMS only", default=True),
        Field(name="bias", kind="bool", doc="Add a learned bias", default=True),
    ),
    infer=_infer_group,
    parameters=_parameters,
    flops=_flops,
    operands=("num_groups", "eps", "centre"),
    reference="norm:group_norm",
)

L2_NORM = Op(
    name="l2_norm",
    summary="x / sqrt(sum of x^2 + eps): unit length",
    ports=(Port(name="x", doc="[..., M]"),),
    fields=(
        Field(name="eps", kind="float", doc="Added to the squared length", default=1e-12, minimum=0),
        Field(
            name="head_dim",
            kind="int",
            doc="Each head of this size on its own; absent: all",
            is_nullable=True,
            minimum=1,
        ),
    ),
    infer=_infer_l2,
    flops=_flops,
    operands=("eps", "head_dim"),
    reference="norm:l2_norm",
)
