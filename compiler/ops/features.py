"""Ops that move features: cut heads apart, take a run, repeat them, give them another shape, mix streams."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import cast

from .declaration import Field, Fields, Inputs, Op, Port, ShapeProblem, Sizes, TensorType, known


def _infer_split_heads(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    sizes, x = fields.int_map("sizes"), inputs["x"]
    width, head_dim = known(x.features, "the input width", "x"), sum(sizes.values())
    if width % head_dim:
        raise ShapeProblem(
            f"the parts of a head add up to {head_dim}, which does not divide the width {width}", "sizes"
        )
    return {name: x.with_features(width // head_dim * size) for name, size in sizes.items()}


SPLIT_HEADS = Op(
    name="split_heads",
    summary="Cut every head of the last axis into the same named parts, read as `node:part`",
    ports=(Port(name="x", doc="[..., H*D]"),),
    fields=(Field(name="sizes", kind="int_map", doc="Part name -> size within a head, in order", is_required=True),),
    outputs_field="sizes",
    infer=_infer_split_heads,
    operands=("sizes",),
    reference="layout:split_heads",
)


def _infer_slice(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    width, start, size = known(inputs["x"].features, "the input width", "x"), fields.int("start"), fields.int("size")
    if start + size > width:
        raise ShapeProblem(f"features {start} to {start + size} lie beyond the input width {width}", "start")
    return {"out": inputs["x"].with_features(size)}


SLICE = Op(
    name="slice",
    summary="A run of features; where it starts may differ by layer",
    ports=(Port(name="x", doc="[..., M]"),),
    fields=(
        Field(name="start", kind="int", doc="First feature", is_required=True, is_scalar=True, minimum=0),
        Field(name="size", kind="int", doc="Number of features", is_required=True, minimum=1),
    ),
    infer=_infer_slice,
    operands=("start", "size"),
    reference="layout:slice_features",
)


def _infer_tile(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    return {"out": inputs["x"].with_features(known(inputs["x"].features, "the width", "x") * fields.int("times"))}


TILE = Op(
    name="tile",
    summary="The features again and again, side by side",
    ports=(Port(name="x", doc="[..., M]"),),
    fields=(Field(name="times", kind="int", doc="How often", is_required=True, minimum=1),),
    infer=_infer_tile,
    operands=("times",),
    reference="layout:tile",
)


def _infer_reshape(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    x, keep, shape = inputs["x"], fields.int("keep"), tuple(cast("list[int]", fields["shape"]))
    moved = [known(dim, "an axis that is reshaped", "x") for dim in x.shape[keep:]]
    if prod(moved) != prod(shape):
        raise ShapeProblem(f"{moved} has {prod(moved)} elements, {list(shape)} has {prod(shape)}", "shape")
    return {"out": TensorType(shape=(*x.shape[:keep], *shape), dtype=x.dtype)}


RESHAPE = Op(
    name="reshape",
    summary="The same elements under other trailing axes",
    ports=(Port(name="x", doc="[...]"),),
    fields=(
        Field(name="keep", kind="int", doc="Leading axes that stay: 2 for batch and tokens", default=2, minimum=0),
        Field(name="shape", kind="int_list", doc="The axes after them", is_required=True, minimum=1),
    ),
    infer=_infer_reshape,
    operands=("keep", "shape"),
    reference="layout:reshape",
)


def _infer_mix(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    x, streams = inputs["x"], fields.int("num_streams")
    width, coefficients = (
        known(x.features, "the width", "x"),
        known(inputs["weights"].features, "the weights", "weights"),
    )
    if width % streams:
        raise ShapeProblem(f"num_streams {streams} does not divide the input width {width}", "num_streams")
    if coefficients % streams:
        raise ShapeProblem(f"{coefficients} weights cannot mix {streams} streams", "weights")
    return {"out": x.with_features(coefficients // streams * (width // streams))}


def _mix_flops(fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    return 2.0 * inputs["x"].count(sizes) * known(inputs["weights"].features, "", "") / fields.int("num_streams")


MIX_STREAMS = Op(
    name="mix_streams",
    summary="Each new stream is a sum of the old ones, weighted per token (AltUp, hyper-connections)",
    ports=(
        Port(name="x", doc="[B, T, S*M], streams side by side"),
        Port(name="weights", doc="[B, T, R*S]: row r holds the weights of new stream r"),
    ),
    fields=(Field(name="num_streams", kind="int", doc="S", is_required=True, minimum=1),),
    infer=_infer_mix,
    flops=_mix_flops,
    operands=("num_streams",),
    reference="layout:mix_streams",
)
