"""Mixture of experts: a router that picks experts for each token, and the experts as stacked weights."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Init, Inputs, Op, ParameterSpec, Port, ShapeProblem, Sizes, TensorType, known
from .pointwise import ACTIVATIONS

_NUM_EXPERTS = Field(name="num_experts", kind="int", doc="Number of experts", is_required=True, minimum=1)
_INIT_STD = Field(name="init_std", kind="float", doc="Standard deviation of a fresh weight", default=0.02, minimum=0)


def _infer_router(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    experts, chosen, groups = fields.int("num_experts"), fields.int("top_k"), fields.int("num_groups")
    if chosen > experts:
        raise ShapeProblem(f"cannot pick {chosen} of {experts} experts", "top_k")
    if experts % groups:
        raise ShapeProblem(f"{experts} experts do not fall into {groups} equal groups", "num_groups")
    kept = fields.opt_int("top_groups") or groups
    if kept > groups or chosen > kept * (experts // groups):
        raise ShapeProblem(f"cannot pick {chosen} experts from {kept} of {groups} groups", "top_groups")
    correction = inputs.get("correction")
    if correction is not None and correction.shape != (experts,):
        raise ShapeProblem(f"correction must be [{experts}], but it is {correction}", "correction")
    tokens = inputs["x"].shape[:-1]
    return {
        "weights": TensorType(shape=(*tokens, chosen), dtype="float32"),
        "experts": TensorType(shape=(*tokens, chosen), dtype="int64"),
    }


def _router_parameters(fields: Fields, inputs: Inputs) -> tuple[ParameterSpec, ...]:
    experts, width = fields.int("num_experts"), known(inputs["x"].features, "the input width", "x")
    init = Init(kind="normal", value=fields.float("init_std"))
    weight = ParameterSpec(name="weight", shape=(experts, width), init=init)
    if not fields.bool("bias"):
        return (weight,)
    return (weight, ParameterSpec(name="bias", shape=(experts,), init=Init(kind="zeros")))


def _router_flops(fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    return 2.0 * inputs["x"].count(sizes) * fields.int("num_experts")


ROUTER = Op(
    name="router",
    summary="Score all experts of a token in float32 and pick the best; yields their weights and numbers",
    ports=(
        Port(name="x", doc="[B, T, M]"),
        Port(name="correction", doc="[E], added to the scores for picking only, not to the weights", is_optional=True),
    ),
    fields=(
        _NUM_EXPERTS,
        Field(name="top_k", kind="int", doc="Experts per token", is_required=True, minimum=1),
        Field(
            name="score",
            kind="str",
            doc="From logits to scores",
            default="softmax",
            choices=("softmax", "sigmoid", "sqrtsoftplus"),
        ),
        Field(
            name="score_over",
            kind="str",
            doc="Score all experts before picking, or the picked ones after (gpt-oss)",
            default="all",
            choices=("all", "chosen"),
        ),
        Field(name="normalise", kind="bool", doc="Divide the weights by their sum", default=False),
        Field(name="scale", kind="float", doc="Factor on the weights", default=1.0),
        Field(name="num_groups", kind="int", doc="Equal groups that the experts fall into", default=1, minimum=1),
        Field(
            name="top_groups",
            kind="int",
            doc="Pick from the best groups only; absent: all",
            is_nullable=True,
            minimum=1,
        ),
        Field(
            name="group_score",
            kind="str",
            doc="How good a group is: its best expert, or the sum of its two best",
            default="max",
            choices=("max", "top2_sum"),
        ),
        Field(name="bias", kind="bool", doc="Add a learned bias to the logits", default=False),
        _INIT_STD,
    ),
    outputs=("weights", "experts"),
    infer=_infer_router,
    parameters=_router_parameters,
    flops=_router_flops,
    operands=("top_k", "score", "score_over", "normalise", "scale", "num_groups", "top_groups", "group_score"),
    reference="moe:router",
)


def _infer_experts(_fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    if inputs["weights"].shape != inputs["experts"].shape or inputs["experts"].dtype != "int64":
        raise ShapeProblem(f"weights is {inputs['weights']} but experts is {inputs['experts']}", "experts")
    known(inputs["x"].features, "the input width", "x")
    return {"out": inputs["x"]}


def _expert_parameters(fields: Fields, inputs: Inputs) -> tuple[ParameterSpec, ...]:
    experts, inner = fields.int("num_experts"), fields.int("intermediate_size")
    width = known(inputs["x"].features, "the input width", "x")
    init = Init(kind="normal", value=fields.float("init_std"))
    inward = ("gate_proj", "up_proj") if fields.bool("gated") else ("up_proj",)
    found = [ParameterSpec(name=name, shape=(experts, inner, width), init=init) for name in inward]
    found.append(ParameterSpec(name="down_proj", shape=(experts, width, inner), init=init))
    if fields.bool("bias"):
        zeros = Init(kind="zeros")
        found += [ParameterSpec(name=f"{name}_bias", shape=(experts, inner), init=zeros) for name in inward]
        found.append(ParameterSpec(name="down_proj_bias", shape=(experts, width), init=zeros))
    return tuple(found)


def _experts_flops(fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
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
        _NUM_EXPERTS,
        Field(name="intermediate_size", kind="int", doc="Width inside one expert", is_required=True, minimum=1),
        Field(name="activation", kind="str", doc="The nonlinearity", default="silu", choices=ACTIVATIONS),
        Field(name="gated", kind="bool", doc="activation(gate) * up, or activation(up)", default=True),
        Field(name="bias", kind="bool", doc="Add learned biases", default=False),
        _INIT_STD,
    ),
    infer=_infer_experts,
    parameters=_expert_parameters,
    flops=_experts_flops,
    operands=("activation",),
    reference="moe:experts",
)
