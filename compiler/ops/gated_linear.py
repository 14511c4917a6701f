"""One projection to gate and up, and the gated activation of the two."""

from __future__ import annotations

from collections.abc import Mapping

from .activation import ACTIVATION
from .declaration import Field, Fields, Inputs, Op, Port, Sizes, TensorType


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    return {"out": inputs["x"].with_features(fields.int("features"))}


def _flops(fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    return 4.0 * inputs["x"].count(sizes) * fields.int("features")


GATED_LINEAR = Op(
    name="gated_linear",
    summary="activation(g) * u with g, u the halves of one projection",
    ports=(Port(name="x", doc="[..., I]"),),
    fields=(
        Field(name="features", kind="int", doc="Output width: half the projection's", is_required=True, minimum=1),
        *ACTIVATION.fields,
    ),
    infer=_infer,
    flops=_flops,
    operands=("kind",),
    reference="linear:gated_linear",
    is_internal=True,
)
