"""RoPE: rotary position embedding of queries or keys (Su et al. 2021), with every frequency scaling in use."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Field, Fields, Inputs, Op, Port, ShapeProblem, Sizes, TensorType
from .shapes import divides, known

SCALINGS = ("none", "linear", "dynamic", "llama3", "yarn", "longrope")


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    width = known(inputs["x"].features, "the rotated width", "x")
    head_dim = fields.int("head_dim")
    rotary_dim = fields.opt_int("rotary_dim") or head_dim
    divides(head_dim, width, "head_dim")
    if rotary_dim > head_dim or rotary_dim % 2:
        at = "rotary_dim" if fields.opt_int("rotary_dim") else "head_dim"
        raise ShapeProblem(f"the rotated part must be even and at most head_dim {head_dim}, not {rotary_dim}", at)
    scaling = fields.str("scaling")
    if scaling in ("linear", "dynamic", "llama3", "yarn") and fields.opt_float("factor") is None:
        raise ShapeProblem(f"scaling {scaling} needs factor", "scaling")
    return {"out": inputs["x"]}


def _flops(_fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    return 3.0 * inputs["x"].count(sizes)


TABLE_FIELDS = (
    Field(name="theta", kind="float", doc="Base of the frequencies", default=10000.0, minimum=1),
    Field(name="scaling", kind="str", doc="Frequency scaling for long contexts", default="none", choices=SCALINGS),
    Field(name="factor", kind="float", doc="Scaling factor", is_nullable=True, minimum=1),
    Field(name="low_freq_factor", kind="float", doc="llama3: where smoothing begins", default=1.0),
    Field(name="high_freq_factor", kind="float", doc="llama3: where smoothing ends", default=4.0),
    Field(name="original_max_seq_len", kind="int", doc="Context length before scaling", is_nullable=True, minimum=1),
    Field(name="attention_factor", kind="float", doc="yarn, longrope: factor on cos and sin", is_nullable=True),
    Field(name="beta_fast", kind="float", doc="yarn: upper bound of the ramp", default=32.0),
    Field(name="beta_slow", kind="float", doc="yarn: lower bound of the ramp", default=1.0),
    Field(name="truncate", kind="bool", doc="yarn: begin and end the ramp at whole pairs", default=True),
    Field(name="mscale", kind="float", doc="yarn: numerator of the attention factor", is_nullable=True),
    Field(name="mscale_all_dim", kind="float", doc="yarn: denominator of the attention factor", is_nullable=True),
    Field(name="short_factor", kind="float_list", doc="longrope: factors within the original length", is_nullable=True),
    Field(name="long_factor", kind="float_list", doc="longrope: factors beyond it", is_nullable=True),
    Field(name="max_seq_len", kind="int", doc="dynamic, longrope: longest context", is_nullable=True, minimum=1),
)


ROPE = Op(
    name="rope",
    summary="Rotate each head by its token's position",
    ports=(Port(name="x", doc="[B, T, H*D]"),),
    fields=(
        Field(name="head_dim", kind="int", doc="Size of a head", is_required=True, minimum=1),
        Field(name="rotary_dim", kind="int", doc="Rotated part of each head; absent: all", is_nullable=True, minimum=2),
        Field(
            name="layout",
            kind="str",
            doc="Which components make a pair: half (i, i + D/2) or interleaved (2i, 2i + 1)",
            default="half",
            choices=("half", "interleaved"),
        ),
        *TABLE_FIELDS,
    ),
    infer=_infer,
    flops=_flops,
    operands=("head_dim", "rotary_dim", "layout", *(f.name for f in TABLE_FIELDS)),
    ambient=("position",),
    reference="rope:rope",
)
