"""Attention: softmax(q kᵀ * scale + bias) v over the visible keys, with as many key heads as the inputs hold."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Inputs, Op, Port, ShapeProblem, Sizes, StateSpec, TensorType
from .shapes import known


def _heads(fields: Fields, inputs: Inputs) -> tuple[int, int, int]:
    """Query heads, key heads and the value head size; raises where the widths do not agree."""
    head_dim = fields.int("head_dim")
    v_head_dim = fields.opt_int("v_head_dim") or head_dim
    q, k, v = (known(inputs[name].features, f"the width of {name}", name) for name in ("q", "k", "v"))
    for name, width, size in (("q", q, head_dim), ("k", k, head_dim), ("v", v, v_head_dim)):
        if width % size:
            raise ShapeProblem(f"the width of {name}, {width}, is no multiple of its head size {size}", name)
    if k // head_dim != v // v_head_dim:
        raise ShapeProblem(f"k has {k // head_dim} heads and v has {v // v_head_dim}", "v")
    if (q // head_dim) % (k // head_dim):
        raise ShapeProblem(
            f"{q // head_dim} query heads cannot share {k // head_dim} key heads",
            "k",
            help="num_heads must be a multiple of num_kv_heads",
        )
    return q // head_dim, k // head_dim, v_head_dim


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    heads, _, v_head_dim = _heads(fields, inputs)
    by_distance = inputs.get("distance_bias")
    if by_distance is not None and by_distance.shape[0] != heads:
        raise ShapeProblem(f"distance_bias must have {heads} rows, but it is {by_distance}", "distance_bias")
    if inputs["k"].shape[:-1] != inputs["v"].shape[:-1]:
        raise ShapeProblem(f"keys and values are of unlike tokens: k is {inputs['k']}, v is {inputs['v']}", "v")
    if inputs["k"].shape[:-1] != inputs["q"].shape[:-1] and fields.str("mask") == "causal":
        raise ShapeProblem(
            f"queries {inputs['q']} and keys {inputs['k']} lie on unlike axes, so none comes before the other",
            "mask",
            help="write mask: bidirectional",
        )
    return {"out": inputs["q"].with_features(heads * v_head_dim)}


def span_of(fields: Fields) -> int | None:
    """How many of the last tokens a query may see, itself counted; None: all."""
    return min((size for size in (fields.opt_int("window"), fields.opt_int("chunk")) if size is not None), default=None)


def _states(fields: Fields, inputs: Inputs) -> tuple[StateSpec, ...]:
    """Its own keys and values; those of another axis stay as they were made."""
    _, kv_heads, v_head_dim = _heads(fields, inputs)
    sizes = {"heads": kv_heads, "key_dim": fields.int("head_dim"), "value_dim": v_head_dim}
    if inputs["k"].shape[:-1] != inputs["q"].shape[:-1]:
        return (StateSpec(kind="cross_kv", sizes=sizes),)
    if fields.str("mask") == "bidirectional":
        return ()
    span = span_of(fields)
    if span is None:
        return (StateSpec(kind="kv_full", sizes=sizes),)
    return (StateSpec(kind="kv_window", sizes={**sizes, "window": span}),)


def _flops(fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    heads, _, v_head_dim = _heads(fields, inputs)
    axis = inputs["k"].shape[1]
    seen = sizes["S"] if axis == "T" else sizes[axis] if isinstance(axis, str) else axis
    span = min(seen, span_of(fields) or seen)
    queries = inputs["q"].with_features(1).count(sizes)
    return 2.0 * queries * span * heads * (fields.int("head_dim") + v_head_dim)


ATTENTION = Op(
    name="attention",
    summary="Softmax attention; MHA, GQA or MQA by the widths of q, k and v",
    ports=(
        Port(name="q", doc="[B, T, H*D]"),
        Port(name="k", doc="[B, T, Hkv*D], or of another axis: cross attention"),
        Port(name="v", doc="[B, T, Hkv*Dv], of the axis of k"),
        Port(name="bias", doc="[H, T, S], added to the scores", is_optional=True),
        Port(
            name="distance_bias",
            doc="[H, 2*R + 1], added to the scores by distance: column R + min(max(key - query, -R), R)",
            is_optional=True,
        ),
        Port(name="sink", doc="[H], one more logit in each head's softmax that attends to nothing", is_optional=True),
    ),
    fields=(
        Field(name="head_dim", kind="int", doc="Size of a query and key head", is_required=True, minimum=1),
        Field(name="v_head_dim", kind="int", doc="Size of a value head; absent: head_dim", is_nullable=True, minimum=1),
        Field(
            name="mask",
            kind="str",
            doc="Which keys a query sees: its own and earlier ones, or all",
            default="causal",
            choices=("causal", "bidirectional"),
        ),
        Field(name="window", kind="int", doc="Only keys less than this many tokens away", is_nullable=True, minimum=1),
        Field(
            name="chunk",
            kind="int",
            doc="Only keys of the query's own run of this many tokens, counted from the first (Llama 4)",
            is_nullable=True,
            minimum=1,
        ),
        Field(name="scale", kind="float", doc="Factor on q k; absent: 1/sqrt(head_dim)", is_nullable=True),
        Field(name="softcap", kind="float", doc="cap * tanh(score / cap)", is_nullable=True),
        Field(name="alibi", kind="bool", doc="Linear position bias per head (Press et al. 2021)", default=False),
        Field(name="dropout", kind="float", doc="Dropout on the attention weights in training", default=0.0, minimum=0),
        Field(name="cache", kind="str", doc="Path of the attention node whose keys and values this one reads"),
    ),
    infer=_infer,
    states=_states,
    flops=_flops,
    operands=("head_dim", "v_head_dim", "mask", "window", "chunk", "scale", "softcap", "alibi", "dropout"),
    ambient=("position",),
    ambient_of={"key_position": ("position", "k")},
    hints=("plan", "key_plan"),
    reads_training=True,
    cached_form="attend_cached",
    cached_ports=("k", "v"),
    is_tokenwise=False,
    reference="attention:attention",
)
