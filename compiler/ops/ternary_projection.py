"""Several ternary linears of one value as one matrix, gated or not."""

from __future__ import annotations

from collections.abc import Mapping

from .activation import ACTIVATIONS
from .declaration import Field, Fields, Inputs, Op, Port, Sizes, TensorType
from .ternary_linear import TERNARY_LINEAR


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    return {"out": inputs["x"].with_features(fields.int("features"))}


def _flops(fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    rows = 1 if fields.values.get("kind") is None else 2
    return 2.0 * rows * fields.int("features") * inputs["x"].count(sizes)


TERNARY_PROJECTION = Op(
    name="ternary_projection",
    summary="Ternary linears of one x, each with its own scale, as one; with `kind` the gated activation of two",
    ports=(Port(name="x", doc="[..., I]"),),
    fields=(
        Field(name="features", kind="int", doc="Output width: with `kind` half the rows", is_required=True),
        TERNARY_LINEAR.field_index["activation_bits"],
        Field(name="parts", kind="int_list", doc="Rows of each matrix; null: it is one", is_nullable=True),
        Field(name="kind", kind="str", doc="The gate's function", is_nullable=True, choices=ACTIVATIONS),
    ),
    infer=_infer,
    flops=_flops,
    operands=("activation_bits", "parts", "kind"),
    reference="ternary:ternary_projection",
    is_internal=True,
)
