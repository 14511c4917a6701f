"""L2 norm: features, or those of each head, brought to unit length."""

from __future__ import annotations

from collections.abc import Mapping

from .costs import five_flops
from .declaration import Field, Fields, Inputs, Op, Port, TensorType
from .shapes import divides, known


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    divides(fields.opt_int("head_dim") or 1, known(inputs["x"].features, "the normalised width", "x"), "head_dim")
    return {"out": inputs["x"]}


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
    infer=_infer,
    flops=five_flops,
    operands=("eps", "head_dim"),
    reference="norm:l2_norm",
)
