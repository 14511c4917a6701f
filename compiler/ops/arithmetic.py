"""Arithmetic on whole values beyond add and mul: difference, quotient, interpolation, clamping, reduction, sparsity."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Inputs, Op, Port, ShapeProblem, Sizes, TensorType, known, same_as_input
from .pointwise import ADD


def _one_flop(_fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    return float(inputs[next(iter(inputs))].count(sizes))


def _infer_lerp(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    a = inputs["a"]
    for port in ("b", "weight"):
        found = ADD.infer(fields, {"a": a, "b": inputs[port]})["out"]
        if found.shape != a.shape:
            raise ShapeProblem(f"{port} must broadcast to {a}, but it is {inputs[port]}", port)
    return {"out": a}


def _infer_reduce(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    x = inputs["x"]
    width = known(x.features, "the reduced width", "x")
    head_dim = fields.opt_int("head_dim") or width
    if width % head_dim:
        raise ShapeProblem(f"head_dim {head_dim} does not divide the input width {width}", "head_dim")
    return {"out": x if fields.bool("keep") else x.with_features(width // head_dim)}


_PORTS = (Port(name="a", doc="[..., M]"), Port(name="b", doc="[..., M], broadcast like torch"))

SUB = Op(
    name="sub", summary="a - b", ports=_PORTS, infer=ADD.infer, flops=_one_flop, reference="pointwise:sub",
)  # fmt: skip
DIV = Op(
    name="div", summary="a / b", ports=_PORTS, infer=ADD.infer, flops=_one_flop, reference="pointwise:div",
)  # fmt: skip
LERP = Op(
    name="lerp",
    summary="a + (b - a) * weight",
    ports=(*_PORTS, Port(name="weight", doc="broadcast to a")),
    infer=_infer_lerp,
    flops=_one_flop,
    reference="pointwise:lerp",
)
CLAMP = Op(
    name="clamp",
    summary="x within bounds",
    ports=(Port(name="x", doc="[...]"),),
    fields=(
        Field(name="min", kind="float", doc="Least value; absent: none", is_nullable=True),
        Field(name="max", kind="float", doc="Largest value; absent: none", is_nullable=True),
    ),
    infer=same_as_input,
    flops=_one_flop,
    operands=("min", "max"),
    reference="pointwise:clamp",
)
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
    infer=_infer_reduce,
    flops=_one_flop,
    operands=("kind", "head_dim", "keep"),
    reference="pointwise:reduce",
)
TOPK_SPARSITY = Op(
    name="topk_sparsity",
    summary="relu(x - cutoff), where the cutoff leaves a share of a normal distribution's features (Gemma 3n)",
    ports=(Port(name="x", doc="[..., F]"),),
    fields=(
        Field(
            name="sparsity",
            kind="float",
            doc="Share of features to zero, below 1",
            is_required=True,
            is_scalar=True,
            minimum=0,
        ),
    ),
    infer=same_as_input,
    flops=_one_flop,
    operands=("sparsity",),
    reference="pointwise:topk_sparsity",
)
