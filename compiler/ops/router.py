"""Router: scores all experts of a token and picks the best."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Inputs, Op, ParameterSpec, Port, ShapeProblem, Sizes, TensorType
from .learned import INIT_STD, learned_bias, normal_init
from .shapes import known


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
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


def _parameters(fields: Fields, inputs: Inputs) -> tuple[ParameterSpec, ...]:
    experts, width = fields.int("num_experts"), known(inputs["x"].features, "the input width", "x")
    weight = ParameterSpec(name="weight", shape=(experts, width), init=normal_init(fields))
    return (weight, *learned_bias(fields, experts))


def _flops(fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    return 2.0 * inputs["x"].count(sizes) * fields.int("num_experts")


ROUTER = Op(
    name="router",
    summary="Score all experts of a token in float32 and pick the best; yields their weights and numbers",
    ports=(
        Port(name="x", doc="[B, T, M]"),
        Port(name="correction", doc="[E], added to the scores for picking only, not to the weights", is_optional=True),
    ),
    fields=(
        Field(name="num_experts", kind="int", doc="Number of experts", is_required=True, minimum=1),
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
        INIT_STD,
    ),
    outputs=("weights", "experts", "logits"),
    infer=_infer,
    parameters=_parameters,
    flops=_flops,
    operands=("top_k", "score", "score_over", "normalise", "scale", "num_groups", "top_groups", "group_score"),
    reference="moe:router",
)
