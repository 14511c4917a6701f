"""Mixture of experts: a router that picks experts for each token, and the experts as stacked weights."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Init, Inputs, Op, ParameterSpec, Port, ShapeProblem, Sizes, TensorType, known
from .pointwise import ACTIVATIONS

_SCORE = Field(
    name="score",
    kind="str",
    doc="From logits to scores",
    default="softmax",
    choices=("softmax", "sigmoid", "sqrtsoftplus"),
)
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
        "logits": TensorType(shape=(*tokens, experts), dtype="float32"),
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
        _SCORE,
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
    outputs=("weights", "experts", "logits"),
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
    read = min(experts, known(inputs["experts"].features, "the number of picks", "experts"))
    init, zeros = Init(kind="normal", value=fields.float("init_std")), Init(kind="zeros")
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
        _INIT_STD,
    ),
    infer=_infer_experts,
    parameters=_expert_parameters,
    flops=_experts_flops,
    operands=("activation", "packing", "layout", "limit", "up_offset", "weighs"),
    reference="moe:experts",
)


def _infer_loss(_fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    logits = [found for port, found in inputs.items() if port.partition(".")[0] == "logits"]
    picks = [found for port, found in inputs.items() if port.partition(".")[0] == "experts"]
    if len(logits) != len(picks):
        raise ShapeProblem(f"{len(logits)} routers gave logits, but {len(picks)} gave experts", "experts")
    for found in logits:
        if found.shape != logits[0].shape:
            raise ShapeProblem(f"logits are {logits[0]} in one layer and {found} in another", "logits")
    one = TensorType(shape=(1,), dtype="float32")
    experts = known(logits[0].features, "the number of experts", "logits")
    return {"balance": one, "z": one, "utilisation": TensorType(shape=(len(logits), experts), dtype="float32")}


ROUTER_LOSS = Op(
    name="router_loss",
    summary="How evenly routers use their experts: the load-balance and z losses, and each expert's share",
    ports=(
        Port(name="logits", doc="[B, T, E] of each layer", is_variadic=True),
        Port(name="experts", doc="[B, T, K] of each layer", is_variadic=True),
    ),
    fields=(_SCORE,),
    outputs=("balance", "z", "utilisation"),
    infer=_infer_loss,
    operands=("score",),
    ambient=("position",),
    is_for_training=True,
    is_tokenwise=False,
    reference="moe:router_loss",
)
