"""Elementwise ops: residual adds and gates, scaling, activations, dropout."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import (
    Dim,
    Field,
    Fields,
    Inputs,
    Op,
    Port,
    ShapeProblem,
    Sizes,
    TensorType,
    known,
    same_as_input,
)

ACTIVATIONS = (
    "gelu", "gelu_tanh", "gelu_quick", "relu", "relu2", "silu", "sigmoid", "tanh", "softplus", "exp", "identity",
)  # fmt: skip


def _one_flop(_fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    return float(next(iter(inputs.values())).count(sizes))


def _broadcast(a: Dim, b: Dim) -> Dim:
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    raise ValueError


def _infer_binary(_fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    a, b = inputs["a"], inputs["b"]
    longer, shorter = (a.shape, b.shape) if len(a.shape) >= len(b.shape) else (b.shape, a.shape)
    padded = (1,) * (len(longer) - len(shorter)) + shorter
    try:
        shape = tuple(_broadcast(x, y) for x, y in zip(longer, padded, strict=True))
    except ValueError:
        raise ShapeProblem(
            f"these two cannot be combined: {a} and {b}", "b", help="make both widths equal, e.g. by a linear"
        ) from None
    return {"out": TensorType(shape=shape, dtype=a.dtype)}


_BINARY_PORTS = (Port(name="a", doc="[..., M]"), Port(name="b", doc="[..., M], broadcast like torch"))

ADD = Op(
    name="add",
    summary="a + b: a residual connection",
    ports=_BINARY_PORTS,
    infer=_infer_binary,
    flops=_one_flop,
    reference="pointwise:add",
)
MUL = Op(
    name="mul",
    summary="a * b: a gate",
    ports=_BINARY_PORTS,
    infer=_infer_binary,
    flops=_one_flop,
    reference="pointwise:mul",
)
SCALE = Op(
    name="scale",
    summary="x * factor + offset",
    ports=(Port(name="x", doc="[...]"),),
    fields=(
        Field(name="factor", kind="float", doc="The multiplier", is_required=True, is_scalar=True),
        Field(name="offset", kind="float", doc="Added afterwards", default=0.0, is_scalar=True),
    ),
    infer=same_as_input,
    flops=_one_flop,
    operands=("factor", "offset"),
    reference="pointwise:scale",
)
SOFTCAP = Op(
    name="softcap",
    summary="cap * tanh(x / cap)",
    ports=(Port(name="x", doc="[...]"),),
    fields=(Field(name="cap", kind="float", doc="Largest magnitude", is_required=True, minimum=0),),
    infer=same_as_input,
    flops=_one_flop,
    operands=("cap",),
    reference="pointwise:softcap",
)
_KIND = Field(name="kind", kind="str", doc="The function", is_required=True, choices=ACTIVATIONS)
ACTIVATION = Op(
    name="activation",
    summary="An elementwise nonlinearity",
    ports=(Port(name="x", doc="[...]"),),
    fields=(_KIND,),
    infer=same_as_input,
    flops=_one_flop,
    operands=("kind",),
    reference="pointwise:activation",
)
DROPOUT = Op(
    name="dropout",
    summary="Zero a share of the elements in training, identity otherwise",
    ports=(Port(name="x", doc="[...]"),),
    fields=(Field(name="p", kind="float", doc="The share", is_required=True, minimum=0),),
    infer=same_as_input,
    operands=("p",),
    reads_training=True,
    reference="pointwise:dropout",
)
ZEROS_LIKE = Op(
    name="zeros_like",
    summary="Zeros of x's shape: the residual of a rotated block's first instance",
    ports=(Port(name="x", doc="[...]"),),
    infer=same_as_input,
    reference="pointwise:zeros_like",
    is_internal=True,
)


def _infer_gated(_fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    if inputs["gate"] != inputs["up"]:
        raise ShapeProblem(f"gate is {inputs['gate']} but up is {inputs['up']}", "up")
    return {"out": inputs["gate"]}


GATED_ACTIVATION = Op(
    name="gated_activation",
    summary="activation(gate) * up",
    ports=(Port(name="gate", doc="[..., F]"), Port(name="up", doc="[..., F]")),
    fields=(_KIND,),
    infer=_infer_gated,
    flops=_one_flop,
    operands=("kind",),
    reference="pointwise:gated_activation",
    is_internal=True,
)


def _infer_packed(_fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    return {"out": inputs["x"].with_features(known(inputs["x"].features, "the width", "x") // 2)}


GATED_ACTIVATION_PACKED = Op(
    name="gated_activation_packed",
    summary="activation(x[..., :F]) * x[..., F:], both halves from one projection",
    ports=(Port(name="x", doc="[..., 2*F]"),),
    fields=(_KIND,),
    infer=_infer_packed,
    flops=_one_flop,
    operands=("kind",),
    reference="pointwise:gated_activation_packed",
    is_internal=True,
)
