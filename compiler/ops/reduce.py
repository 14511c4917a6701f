"""Reduce: one number for each head of the last axis."""

from __future__ import annotations

from collections.abc import Mapping

from .costs import one_flop
from .declaration import Field, Fields, Inputs, Op, Port, TensorType
from .shapes import divides, known


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    x = inputs["x"]
    width = known(x.features, "the reduced width", "x")
    head_dim = fields.opt_int("head_dim") or width
    divides(head_dim, width, "head_dim")
    return {"out": x if fields.bool("keep") else x.with_features(width // head_dim)}


REDUCE = Op(
    name="reduce",
    summary="One number per head: the sum, mean, root mean square or maximum of its features",
    ports=(Port(name="x", doc="[..., H*D]"),),
    fields=(
        Field(name="kind", kind="str", doc="Which number", is_required=True, choices=("sum", "mean", "rms", "max")),
        Field(
            name="head_dim", kind="int", doc="Size of a head; absent: the whole last axis", is_nullable=True, minimum=1
        ),
        Field(
            name="keep",
            kind="bool",
            doc="Keep the width: the number stands at each of its head's features",
            default=False,
        ),
    ),
    infer=_infer,
    flops=one_flop,
    operands=("kind", "head_dim", "keep"),
    reference="pointwise:reduce",
)
