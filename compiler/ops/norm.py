"""RMS and layer norm, and the forms fused with the residual add before them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .declaration import Field, Fields, Init, Inputs, Op, ParameterSpec, Port, ShapeProblem, Sizes, TensorType, known


def _width(fields: Fields, inputs: Inputs) -> int:
    first = next(iter(inputs))
    width = known(inputs[first].features, "the normalised width", first)
    head_dim = fields.opt_int("head_dim")
    if head_dim is not None and width % head_dim:
        raise ShapeProblem(f"head_dim {head_dim} does not divide the input width {width}", "head_dim")
    return head_dim or width


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    _width(fields, inputs)
    return {"out": inputs["x"]}


def _weight(fields: Fields, inputs: Inputs, init: Init) -> tuple[ParameterSpec, ...]:
    if not fields.bool("weight"):
        return ()
    return (ParameterSpec(name="weight", shape=(_width(fields, inputs),), init=init),)


def _rms_parameters(fields: Fields, inputs: Inputs) -> tuple[ParameterSpec, ...]:
    return _weight(fields, inputs, Init(kind="constant", value=1.0 - fields.float("weight_offset")))


def _layer_parameters(fields: Fields, inputs: Inputs) -> tuple[ParameterSpec, ...]:
    weight = _weight(fields, inputs, Init(kind="ones"))
    if not fields.bool("bias"):
        return weight
    return (*weight, ParameterSpec(name="bias", shape=(_width(fields, inputs),), init=Init(kind="zeros")))


def _flops(_fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    return 5.0 * next(iter(inputs.values())).count(sizes)


def _infer_with_sum(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    if inputs["delta"] != inputs["residual"]:
        raise ShapeProblem(f"cannot add {inputs['delta']} to {inputs['residual']}", "residual")
    _width(fields, inputs)
    return {"out": inputs["delta"], "sum": inputs["delta"]}


_EPS = Field(name="eps", kind="float", doc="Added to the variance", is_required=True, minimum=0)
_WEIGHT = Field(name="weight", kind="bool", doc="Multiply by a learned weight", default=True)
_HEAD_DIM = Field(
    name="head_dim",
    kind="int",
    doc="Normalise each head of this size on its own (QK norm); absent: the whole last axis",
    is_nullable=True,
    minimum=1,
)

RMS_NORM = Op(
    name="rms_norm",
    summary="x / rms(x) * (weight + weight_offset)",
    ports=(Port(name="x", doc="[..., M]"),),
    fields=(
        _EPS,
        _WEIGHT,
        Field(name="weight_offset", kind="float", doc="1.0 for checkpoints that store weight - 1", default=0.0),
        _HEAD_DIM,
    ),
    infer=_infer,
    parameters=_rms_parameters,
    flops=_flops,
    operands=("eps", "weight_offset", "head_dim"),
    reference="norm:rms_norm",
)

LAYER_NORM = Op(
    name="layer_norm",
    summary="(x - mean) / std * weight + bias",
    ports=(Port(name="x", doc="[..., M]"),),
    fields=(_EPS, _WEIGHT, Field(name="bias", kind="bool", doc="Add a learned bias", default=True), _HEAD_DIM),
    infer=_infer,
    parameters=_layer_parameters,
    flops=_flops,
    operands=("eps", "head_dim"),
    reference="norm:layer_norm",
)


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


ADD_RMS_NORM = with_residual_add(RMS_NORM)
ADD_LAYER_NORM = with_residual_add(LAYER_NORM)
