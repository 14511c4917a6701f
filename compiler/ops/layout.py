"""Ops that only move data: split, concat, select, and pooling over tokens."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Inputs, Op, Port, ShapeProblem, TensorType, known


def _infer_split(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    sizes, x = fields.int_map("sizes"), inputs["x"]
    width = known(x.features, "the input width", "x")
    if sum(sizes.values()) != width:
        listed = " + ".join(str(size) for size in sizes.values())
        raise ShapeProblem(f"the parts add up to {listed} = {sum(sizes.values())}, but x is {width} wide", "sizes")
    return {name: x.with_features(size) for name, size in sizes.items()}


SPLIT = Op(
    name="split",
    summary="Cut the last axis into named parts, read as `node:part`",
    ports=(Port(name="x", doc="[..., M]"),),
    fields=(Field(name="sizes", kind="int_map", doc="Part name -> width, in order", is_required=True),),
    outputs_field="sizes",
    infer=_infer_split,
    operands=("sizes",),
    reference="pointwise:split",
)


def _infer_concat(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    types, heads = list(inputs.values()), fields.int("heads")
    for name, other in inputs.items():
        if other.shape[:-1] != types[0].shape[:-1]:
            raise ShapeProblem(f"cannot concatenate {types[0]} and {other}", name)
        if known(other.features, "the width of a part", name) % heads:
            raise ShapeProblem(f"{heads} heads do not divide the width of {other}", "heads")
    width = sum(known(t.features, "the width of a part", name) for name, t in inputs.items())
    return {"out": types[0].with_features(width)}


CONCAT = Op(
    name="concat",
    summary="Join along the last axis",
    ports=(Port(name="xs", doc="two or more of [..., M_i]", is_variadic=True),),
    fields=(Field(name="heads", kind="int", doc="Join the parts head by head, of so many", default=1, minimum=1),),
    infer=_infer_concat,
    operands=("heads",),
    reference="pointwise:concat",
)


WATCH = Op(
    name="watch",
    summary="Numbers to look at in training, side by side; inference neither computes nor gives them",
    ports=(Port(name="xs", doc="[..., M_i], of each layer for one", is_variadic=True),),
    fields=CONCAT.fields,
    infer=_infer_concat,
    operands=("heads",),
    is_for_training=True,
    is_tokenwise=False,
    reference=CONCAT.reference,
)


def _infer_pool(_fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    x = inputs["x"]
    if len(x.shape) != 3:
        raise ShapeProblem(f"only [B, T, M] can be pooled, but x is {x}", "x")
    return {"out": TensorType(shape=(x.shape[0], x.shape[-1]), dtype=x.dtype)}


POOL = Op(
    name="pool",
    summary="One vector per sequence; padding is left out",
    ports=(Port(name="x", doc="[B, T, M]"),),
    fields=(
        Field(
            name="kind",
            kind="str",
            doc="Which token, or which mean",
            is_required=True,
            choices=("first", "last", "mean", "max"),
        ),
    ),
    infer=_infer_pool,
    operands=("kind",),
    ambient=("position",),
    is_tokenwise=False,
    reference="pointwise:pool",
)


def _infer_sinusoidal(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    return {"out": TensorType(shape=(*inputs["position"].shape, fields.int("features")))}


SINUSOIDAL = Op(
    name="sinusoidal",
    summary="Fixed sine and cosine positions (Vaswani et al. 2017)",
    ports=(Port(name="position", doc="[B, T] int64"),),
    fields=(
        Field(name="features", kind="int", doc="Width", is_required=True, minimum=2),
        Field(name="theta", kind="float", doc="Base of the frequencies", default=10000.0, minimum=1),
        Field(
            name="layout",
            kind="str",
            doc="Sines and cosines in turn, or in two halves",
            default="interleaved",
            choices=("interleaved", "half"),
        ),
    ),
    infer=_infer_sinusoidal,
    operands=("features", "theta", "layout"),
    reference="pointwise:sinusoidal",
)
