"""Generated cases of the kernels in C that multiply by matrices: layers, the choice of experts, experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from hypothesis import strategies as st
from torch import Tensor

from llmc.kernels.moe.fields import Experts
from llmc.kernels.moe.packed_reference import packed_experts

from .emitted_case import Case, Draw, Found, Given, Parameter, Scalar, Value
from .emitted_draws import Builder, any_of, dtype_of, gap, positive, rows, scaled, shape, width

INSIDE = ("silu", "gelu", "gelu_tanh", "relu", "relu2", "sigmoid", "tanh")
ROUNDED = 1e-2
"""Error ratio of products whose inputs are rounded to bfloat16 too, as processors with that product do."""


def _product(draw: st.DrawFn, op: str, features: int, inputs: int, **fields: object) -> Case:
    kind, dtype = rows(draw), torch.float32 if op == "ternary_linear" else dtype_of(draw)
    operands: dict[str, object] = {
        "x": Value(shape=(*shape(draw)[:-1], inputs), rows=kind, gap=gap(draw)),
        "weight": Parameter(shape=(features, inputs), draw=scaled),
        **fields,
    }
    if draw(st.booleans()):
        operands["bias"] = Parameter(shape=(features,))
    tolerance = ROUNDED if dtype == torch.bfloat16 else 5e-6
    return Case(op=op, operands=operands, rows=kind, dtype=dtype, tolerance=tolerance)


def linear(draw: st.DrawFn) -> Case:
    return _product(draw, "linear", width(draw), width(draw))


def gated_linear(draw: st.DrawFn) -> Case:
    return _product(draw, "gated_linear", 2 * width(draw), width(draw), kind=any_of(draw, *INSIDE))


def ternary_linear(draw: st.DrawFn) -> Case:
    return _product(draw, "ternary_linear", width(draw), width(draw), activation_bits=8)


def router(draw: st.DrawFn) -> Case:
    groups, in_group = draw(st.sampled_from([1, 2, 4])), draw(st.integers(1, 9))
    count, top_groups = groups * in_group, draw(st.integers(1, groups))
    operands: dict[str, object] = {
        "x": Value(shape=(width(draw),), gap=gap(draw)),
        "top_k": draw(st.integers(1, top_groups * in_group)),
        "score": any_of(draw, "softmax", "sigmoid", "sqrtsoftplus"),
        "score_over": any_of(draw, "all", "chosen"),
        "normalise": draw(st.booleans()),
        "scale": draw(st.sampled_from([1.0, 1.7, Scalar(0.3)])),
        "num_groups": groups,
        "top_groups": top_groups if top_groups < groups else None,
        "group_score": any_of(draw, "max", "top2_sum"),
    }
    operands["weight"] = Parameter(shape=(count, cast("Value", operands["x"]).shape[0]))
    operands |= {name: Parameter(shape=(count,)) for name in ("bias", "correction") if draw(st.booleans())}
    return Case(op="router", operands=operands, ports=("weights", "experts", "logits"), dtype=dtype_of(draw))


def _picks(count: int) -> Callable[[tuple[int, ...], torch.Generator], Tensor]:
    """Different experts for each token."""

    def draw(axes: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.rand((*axes[:-1], count), generator=generator).argsort(-1)[..., : axes[-1]].contiguous()

    return draw


EXPERT_FORMATS = (
    *[("", "")] * 4, ("int8", "int8"), ("int4", "int4"), ("int4_128", "int4_128"), ("ternary", "ternary"),
    ("int4", "int8"), ("", "int8"), ("int8", ""),
)  # fmt: skip
"""Of gate and up, and of down; empty: they are not packed."""


def _kept_by(format: str, *, is_in_out: bool) -> Draw:
    """Weights that packing does not change: whole numbers with the ends of their range, times a power of two."""

    def draw(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        most = {"int8": 127, "ternary": 1}.get(format, 7)
        axes = (shape[0], shape[2], shape[1]) if is_in_out else shape
        whole = torch.randint(-most, most + 1, axes, generator=generator)
        if format == "ternary":
            whole = torch.where(whole < 0, -1, 1)  # their mean magnitude is that of each
        else:
            whole[..., ::32] = most if format == "int8" else -8
        found = whole / 2.0 ** (most.bit_length() + axes[2].bit_length() // 2)
        return found.mT.contiguous() if is_in_out else found

    return draw


def experts(draw: st.DrawFn) -> Case:
    count, size, inner = draw(st.integers(1, 8)), width(draw), width(draw)
    top_k, layout = draw(st.integers(1, count)), any_of(draw, "out_in", "in_out")
    packing = draw(st.sampled_from(["separate", "halves", "interleaved"]))
    in_format, down_format = draw(st.sampled_from(EXPERT_FORMATS))
    matrices = {"up_proj": (inner, size), "down_proj": (size, inner)}
    if packing != "separate":
        matrices = {"gate_up_proj": (2 * inner, size), "down_proj": (size, inner)}
    elif draw(st.booleans()):
        matrices["gate_proj"] = (inner, size)
    operands: dict[str, object] = {
        "x": Value(shape=(size,), gap=gap(draw)),
        "weights": Value(shape=(top_k,), gap=gap(draw), draw=positive),
        "experts": Value(shape=(top_k,), ctype="int64_t", draw=_picks(count)),
        "activation": any_of(draw, "silu", "gelu", "relu2"),
        "packing": packing,
        "layout": layout,
        "limit": any_of(draw, None, 0.5),
        "up_offset": any_of(draw, 0.0, 1.0),
        "weighs": any_of(draw, "output", "input"),
    }
    for name, (out, inputs) in matrices.items():
        axes = (count, out, inputs) if layout == "out_in" else (count, inputs, out)
        format = down_format if name == "down_proj" else in_format
        values = _kept_by(format, is_in_out=layout == "in_out") if format else scaled
        operands[name] = Parameter(shape=axes, draw=values, packed=format)
        if draw(st.booleans()):
            operands[f"{name}_bias"] = Parameter(shape=(count, out))
    dtype = dtype_of(draw)
    if not in_format and not down_format:
        tolerance = ROUNDED if dtype == torch.bfloat16 else 5e-6
        return Case(op="experts", operands=operands, dtype=dtype, tolerance=tolerance)

    def expected(_: Given, given: Given) -> Found:
        record = Experts(**cast("dict[str, Any]", given))
        return (packed_experts(record, in_format=in_format, down_format=down_format),), ()

    # a number inside an expert that lies between two whole ones may become either: `test_experts_native` looks at it
    return Case(op="experts", operands=operands, dtype=dtype, tolerance=1e-2, reference=expected)


MATRICES: Mapping[str, Builder] = {
    "linear": linear,
    "gated_linear": gated_linear,
    "ternary_linear": ternary_linear,
    "router": router,
    "experts": experts,
}
