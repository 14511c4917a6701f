"""What RMS and layer norm share: fields, the normalised width, the weight, and the form fused with a residual add."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .declaration import Field, Fields, Init, Inputs, Op, ParameterSpec, Port, ShapeProblem, TensorType
from .shapes import divides, known

EPS = Field(name="eps", kind="float", doc="Added to the variance", is_required=True, minimum=0)
WEIGHT = Field(name="weight", kind="bool", doc="Multiply by a learned weight", default=True)
HEAD_DIM = Field(
    name="head_dim",
    kind="int",
    doc="Normalise each head of this size on its own (QK norm); absent: the whole last axis",
    is_nullable=True,
    minimum=1,
)


def normalised_width(fields: Fields, inputs: Inputs) -> int:
    """How many features one norm is over: those of a head, or the whole last axis of the first input."""
    first = next(iter(inputs))
    width = known(inputs[first].features, "the normalised width", first)
    head_dim = fields.opt_int("head_dim")
    if head_dim is None:
        return width
    divides(head_dim, width, "head_dim")
    return head_dim


def infer_normalised(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    """The type of `x`, whose width heads must divide."""
    normalised_width(fields, inputs)
    return {"out": inputs["x"]}


def learned_weight(fields: Fields, inputs: Inputs, init: Init) -> tuple[ParameterSpec, ...]:
    """The weight of a norm; nothing where the field `weight` is false."""
    if not fields.bool("weight"):
        return ()
    return (ParameterSpec(name="weight", shape=(normalised_width(fields, inputs),), init=init),)


def with_residual_add(norm: Op) -> Op:
    """The internal op `add_<norm>`: `sum = delta + residual; out = norm(sum)`."""
    return replace(
        norm,
        name=f"add_{norm.name}",
        summary=f"sum = delta + residual; out = {norm.name}(sum)",
        ports=(Port(name="delta", doc="[..., M]"), Port(name="residual", doc="[..., M]")),
        outputs=("out", "sum"),
        infer=_infer_with_sum,
        operands=tuple(name for name in norm.operands if name != "head_dim"),
        reference=f"norm:add_{norm.name}",
        is_internal=True,
    )


def _infer_with_sum(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    if inputs["delta"] != inputs["residual"]:
        raise ShapeProblem(f"cannot add {inputs['delta']} to {inputs['residual']}", "residual")
    normalised_width(fields, inputs)
    return {"out": inputs["delta"], "sum": inputs["delta"]}
