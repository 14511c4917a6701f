"""RMS norm: features divided by their root mean square, then weighed."""

from __future__ import annotations

from .costs import five_flops
from .declaration import Field, Fields, Init, Inputs, Op, ParameterSpec, Port
from .normalised import EPS, HEAD_DIM, WEIGHT, infer_normalised, learned_weight


def _parameters(fields: Fields, inputs: Inputs) -> tuple[ParameterSpec, ...]:
    return learned_weight(fields, inputs, Init(kind="constant", value=1.0 - fields.float("weight_offset")))


RMS_NORM = Op(
    name="rms_norm",
    summary="x / rms(x) * (weight + weight_offset)",
    ports=(Port(name="x", doc="[..., M]"),),
    fields=(
        EPS,
        WEIGHT,
        Field(name="weight_offset", kind="float", doc="1.0 for checkpoints that store weight - 1", default=0.0),
        HEAD_DIM,
    ),
    infer=infer_normalised,
    parameters=_parameters,
    flops=five_flops,
    operands=("eps", "weight_offset", "head_dim"),
    reference="norm:rms_norm",
)
