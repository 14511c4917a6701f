"""Group norm: each group of features normalised, then weight and bias over the full width."""

from __future__ import annotations

from collections.abc import Mapping

from .costs import five_flops
from .declaration import Field, Fields, Init, Inputs, Op, ParameterSpec, Port, TensorType
from .learned import learned_bias
from .shapes import divides, known


def _width(inputs: Inputs) -> int:
    return known(inputs["x"].features, "the normalised width", "x")


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    divides(fields.int("num_groups"), _width(inputs), "num_groups")
    return {"out": inputs["x"]}


def _parameters(fields: Fields, inputs: Inputs) -> tuple[ParameterSpec, ...]:
    weight = ParameterSpec(name="weight", shape=(_width(inputs),), init=Init(kind="ones"))
    return (weight, *learned_bias(fields, _width(inputs)))


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
    infer=_infer,
    parameters=_parameters,
    flops=five_flops,
    operands=("num_groups", "eps", "centre"),
    reference="norm:group_norm",
)
