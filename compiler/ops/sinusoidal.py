"""Sinusoidal: fixed positions of sines and cosines."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Inputs, Op, Port, TensorType


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    return {"out": TensorType(shape=(*inputs["position"].shape, fields.int("features")))}


SINUSOIDAL = Op(
    name="sinusoidal",
    summary="Fixed sine and cosine positions (Vaswani et al. 2017)",
    ports=(Port(name="position", doc="[B, T] int64"),),
    fields=(
        Field(name="features", kind="int", doc="Width", is_required=True, minimum=2),
        Field(name="theta", kind="float", doc="Base of the frequencies", default=10000.0, minimum=1),
        Field(
            name="layout",
            kind="str",
            doc="Sines and cosines in turn, or in two halves",
            default="interleaved",
            choices=("interleaved", "half"),
        ),
    ),
    infer=_infer,
    operands=("features", "theta", "layout"),
    reference="pointwise:sinusoidal",
)
