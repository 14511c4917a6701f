"""Mix streams: residual streams weighted into new ones, per token."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Inputs, Op, Port, ShapeProblem, Sizes, TensorType
from .shapes import divides, known


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    x, streams = inputs["x"], fields.int("num_streams")
    width, coefficients = (
        known(x.features, "the width", "x"),
        known(inputs["weights"].features, "the weights", "weights"),
    )
    divides(streams, width, "num_streams")
    if coefficients % streams:
        raise ShapeProblem(f"{coefficients} weights cannot mix {streams} streams", "weights")
    return {"out": x.with_features(coefficients // streams * (width // streams))}


def _flops(fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    return 2.0 * inputs["x"].count(sizes) * known(inputs["weights"].features, "", "") / fields.int("num_streams")


MIX_STREAMS = Op(
    name="mix_streams",
    summary="Each new stream is a sum of the old ones, weighted per token (AltUp, hyper-connections)",
    ports=(
        Port(name="x", doc="[B, T, S*M], streams side by side"),
        Port(name="weights", doc="[B, T, R*S]: row r holds the weights of new stream r"),
    ),
    fields=(Field(name="num_streams", kind="int", doc="S", is_required=True, minimum=1),),
    infer=_infer,
    flops=_flops,
    operands=("num_streams",),
    reference="layout:mix_streams",
)
