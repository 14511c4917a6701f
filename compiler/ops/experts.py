"""Experts: the MLPs of a mixture as stacked weights, each token through those that were picked for it."""

from __future__ import annotations

from collections.abc import Mapping

from .activation import ACTIVATIONS
from .declaration import Field, Fields, Init, Inputs, Op, ParameterSpec, Port, ShapeProblem, Sizes, TensorType
from .learned import INIT_STD, normal_init
from .router import ROUTER
from .shapes import known


def _infer(_fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    if inputs["weights"].shape != inputs["experts"].shape or inputs["experts"].dtype != "int64":
        raise ShapeProblem(f"weights is {inputs['weights']} but experts is {inputs['experts']}", "experts")
    known(inputs["x"].features, "the input width", "x")
    return {"out": inputs["x"]}


def _parameters(fields: Fields, inputs: Inputs) -> tuple[ParameterSpec, ...]:
    experts, inner = fields.int("num_experts"), fields.int("intermediate_size")
    width = known(inputs["x"].features, "the input width", "x")
    read = min(experts, known(inputs["experts"].features, "the number of picks", "experts"))
    init, zeros = normal_init(fields), Init(kind="zeros")
    inward = {"gate_proj": inner, "up_proj": inner} if fields.bool("gated") else {"up_proj": inner}
    if fields.bool("gated") and fields.str("packing") != "separate":
        inward = {"gate_up_proj": 2 * inner}
    matrices = {**{name: (size, width) for name, size in inward.items()}, "down_proj": (width, inner)}
    found: list[ParameterSpec] = []
    for name, (out, size) in matrices.items():
        shape = (experts, out, size) if fields.str("layout") == "out_in" else (experts, size, out)
        found.append(ParameterSpec(name=name, shape=shape, init=init, reads_rows=read))
    if fields.bool("bias"):
        found += [
            ParameterSpec(name=f"{name}_bias", shape=(experts, out), init=zeros, reads_rows=read)
            for name, (out, _) in matrices.items()
        ]
    return tuple(found)


def _flops(fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    matrices = 3 if fields.bool("gated") else 2
    width = known(inputs["x"].features, "the input width", "x")
    return 2.0 * matrices * inputs["experts"].count(sizes) * width * fields.int("intermediate_size")


EXPERTS = Op(
    name="experts",
    summary="Each token through its picked MLPs, summed by their weights",
    ports=(
        Port(name="x", doc="[B, T, M]"),
        Port(name="weights", doc="[B, T, K] float32, from a router"),
        Port(name="experts", doc="[B, T, K] int64, from a router"),
    ),
    fields=(
        ROUTER.field_index["num_experts"],
        Field(name="intermediate_size", kind="int", doc="Width inside one expert", is_required=True, minimum=1),
        Field(name="activation", kind="str", doc="The nonlinearity", default="silu", choices=ACTIVATIONS),
        Field(name="gated", kind="bool", doc="activation(gate) * up, or activation(up)", default=True),
        Field(name="bias", kind="bool", doc="Add learned biases", default=False),
        Field(
            name="packing",
            kind="str",
            doc="Gate and up as two tensors, or as one gate_up_proj: in two halves, or row by row in turn",
            default="separate",
            choices=("separate", "halves", "interleaved"),
        ),
        Field(
            name="layout",
            kind="str",
            doc="Axis order of each expert's weights in the checkpoint",
            default="out_in",
            choices=("out_in", "in_out"),
        ),
        Field(name="limit", kind="float", doc="gate at most, and up within, this", is_nullable=True, minimum=0),
        Field(name="up_offset", kind="float", doc="activation(gate) * (up + this)", default=0.0),
        Field(
            name="weighs",
            kind="str",
            doc="What a pick's weight multiplies: an expert's output, or its input (Llama 4)",
            default="output",
            choices=("output", "input"),
        ),
        INIT_STD,
    ),
    infer=_infer,
    parameters=_parameters,
    flops=_flops,
    operands=("activation", "packing", "layout", "limit", "up_offset", "weighs"),
    reference="moe:experts",
)
