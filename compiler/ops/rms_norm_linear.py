"""Linear, plain or gated, fused with the RMS norm before it."""

from __future__ import annotations

from collections.abc import Mapping

from .activation import ACTIVATIONS
from .declaration import Field, Fields, Inputs, Op, Port, Sizes, TensorType
from .normalised import EPS
from .rms_norm import RMS_NORM


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    return {"out": inputs["x"].with_features(fields.int("features"))}


def _flops(fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    rows = 1 if fields.values.get("kind") is None else 2
    return (2.0 * rows * fields.int("features") + 5.0) * next(iter(inputs.values())).count(sizes)


RMS_NORM_LINEAR = Op(
    name="rms_norm_linear",
    summary="linear(rms_norm(x)), or with `kind` gated_linear of it",
    ports=(Port(name="x", doc="[..., I]"),),
    fields=(
        EPS,
        RMS_NORM.field_index["weight_offset"],
        Field(name="features", kind="int", doc="Output width: with `kind` half the projection's", is_required=True),
        Field(name="kind", kind="str", doc="The gate's function", is_nullable=True, choices=ACTIVATIONS),
    ),
    infer=_infer,
    flops=_flops,
    operands=("eps", "weight_offset", "kind"),
    reference="linear:rms_norm_linear",
    is_internal=True,
)
