"""Layer norm: features without their mean, divided by their deviation, then weight and bias."""

from __future__ import annotations

from .costs import five_flops
from .declaration import Field, Fields, Init, Inputs, Op, ParameterSpec, Port
from .learned import learned_bias
from .normalised import EPS, HEAD_DIM, WEIGHT, infer_normalised, learned_weight, normalised_width


def _parameters(fields: Fields, inputs: Inputs) -> tuple[ParameterSpec, ...]:
    weight = learned_weight(fields, inputs, Init(kind="ones"))
    return (*weight, *learned_bias(fields, normalised_width(fields, inputs)))


LAYER_NORM = Op(
    name="layer_norm",
    summary="(x - mean) / std * weight + bias",
    ports=(Port(name="x", doc="[..., M]"),),
    fields=(EPS, WEIGHT, Field(name="bias", kind="bool", doc="Add a learned bias", default=True), HEAD_DIM),
    infer=infer_normalised,
    parameters=_parameters,
    flops=five_flops,
    operands=("eps", "head_dim"),
    reference="norm:layer_norm",
)
