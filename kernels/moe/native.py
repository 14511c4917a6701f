"""`router` and `experts` in C."""

from __future__ import annotations

from typing import cast

from ..linear.native import FORMATS, dense
from ..native.node import NativeNode, NotNative, fields_of
from .fields import Experts

PLAIN = ("float32", "bfloat16", "float16")
"""Formats of weights that are not packed."""


def router(node: NativeNode) -> None:
    """`reference.router`."""
    x, weight = node.input("x"), node.weight("weight")
    weights, experts, logits = (node.output(port) for port in ("weights", "experts", "logits"))
    count, inputs = weight.shape
    bias = node.input("bias").pointer if node.has("bias") else "0"
    node.region(
        f"llmc_router_logits(t, &(llmc_matrix){{.weight = {weight.pointer}, .bias = {bias}, .N = {count}, "
        f".K = {inputs}, .format = {_plain(weight.format)}}},\n"
        f"  {x.pointer}, {x.stride}, {logits.pointer}, {x.count});"
    )
    num_groups = cast("int", node.field("num_groups"))
    values = {
        "num_experts": count,
        "top_k": node.field("top_k"),
        "num_groups": num_groups,
        "top_groups": node.field("top_groups") or num_groups,
        "score": f"LLMC_SCORE_{cast('str', node.field('score')).upper()}",
        "is_over_chosen": int(node.field("score_over") == "chosen"),
        "normalises": int(cast("bool", node.field("normalise"))),
        "sums_two": int(node.field("group_score") == "top2_sum"),
        "scale": f"(float)({node.number('scale')})",
        "correction": node.input("correction").pointer if node.has("correction") else "0",
    }
    size = 2 * count + num_groups
    spare = node.workspace(size)
    node.row(
        f"{{ llmc_routing rule = {{{_fields(values)}}};\n"
        f"llmc_route({weights.row()}, {experts.row()}, {logits.row()}, {spare} + r * {size}, &rule); }}",
        rows=x.rows,
    )


def experts(node: NativeNode) -> None:
    """`reference.experts`."""
    x, y = node.input("x"), node.output()
    weights, picks = dense(node, node.input("weights")), node.input("experts")
    if not picks.is_dense:
        raise NotNative("picks are part of another value")
    given = fields_of(node, Experts)
    is_in_out, packing = given.layout == "in_out", given.packing
    stacks = {
        name: node.weight(name, is_pair=name == "gate_up_proj" and packing == "halves", is_in_out=is_in_out)
        for name in ("gate_proj", "up_proj", "gate_up_proj", "down_proj")
        if node.has(name)
    }
    down = stacks.pop("down_proj")
    num_experts, inner = down.shape[0], down.shape[1 if is_in_out else 2]
    in_format = next(iter(stacks.values())).format
    values: dict[str, object] = {
        "x": x.pointer,
        "x_stride": x.stride,
        "weights": weights.pointer,
        "picks": picks.pointer,
        "out": y.pointer,
        "rows": x.count,
        "top_k": picks.width,
        "num_experts": num_experts,
        "width": y.width,
        "inner": inner,
        "down": down.pointer,
        "in_format": FORMATS[in_format],
        "down_format": FORMATS[down.format],
        "is_in_out": int(is_in_out),
        "packing": f"LLMC_PACKING_{packing.upper()}",
        "weighs_input": int(given.weighs == "input"),
        "activate": f"llmc_activate_{given.activation}",
        "limit": "INFINITY" if given.limit is None else f"(float)({node.number('limit')})",
        "up_offset": f"(float)({node.number('up_offset')})",
        "hidden": node.workspace(picks.width * inner),
        "order": f"(int32_t *){node.workspace(picks.width)}",
        "starts": f"(int32_t *){node.workspace(2 * num_experts + 1)}",
        "panels": node.workspace(
            2 * picks.width * max(_panel_floats(in_format, y.width), _panel_floats(down.format, inner))
        ),
        "first_panel": f"(int32_t *){node.workspace(num_experts)}",
    }
    values |= {name.removesuffix("_proj"): stack.pointer for name, stack in stacks.items()}
    for name in (*stacks, "down_proj"):
        if node.has(f"{name}_bias"):
            values[f"{name.removesuffix('_proj')}_bias"] = node.input(f"{name}_bias").pointer
    node.matrix_workspace(max(y.width, inner))  # for the scratch that comes with it
    if not {in_format, down.format} <= set(PLAIN):
        values |= {
            "x_rounded": node.workspace(_rounded_floats(y.width)),
            "hidden_rounded": node.workspace(picks.width * _rounded_floats(inner)),
        }
    node.region(f"llmc_run_experts(t, &(llmc_experts){{{_fields(values)}}});")


def _panel_floats(format: str, width: int) -> int:
    """Of one row in a panel."""
    return width if format in PLAIN else _rounded_floats(width)


def _rounded_floats(width: int) -> int:
    """`llmc_quantised_bytes` of quantise.h, in floats."""
    return -(-width // 128) * 40


def _plain(format: str) -> str:
    if format not in PLAIN:
        raise NotNative(f"routers with {format} weights are not written in C")
    return FORMATS[format]


def _fields(values: dict[str, object]) -> str:
    return ",\n  ".join(f".{name} = {value}" for name, value in values.items())
