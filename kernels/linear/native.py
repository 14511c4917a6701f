"""Linear layers in C, alone and with the gated activation that follows."""

from __future__ import annotations

from itertools import accumulate
from typing import cast

from ..native.node import NativeNode, NotNative, Place, Weight

FORMATS = {
    "float32": "LLMC_FP32",
    "bfloat16": "LLMC_BF16",
    "float16": "LLMC_FP16",
    "int8": "LLMC_INT8",
    "int4": "LLMC_INT4_32",
    "int4_128": "LLMC_INT4_128",
    "ternary": "LLMC_TERNARY",
}
"""How C names the formats of weights."""

INSIDE = ("silu", "gelu", "gelu_tanh", "relu", "relu2", "sigmoid", "tanh")
"""The activations that the matrix product applies to its own results."""


def linear(node: NativeNode) -> None:
    """`reference.linear`."""
    _product(node, "LLMC_IDENTITY", is_gated=False)


def gated_linear(node: NativeNode) -> None:
    """`reference.gated_linear`."""
    kind = cast("str", node.field("kind"))
    if kind not in INSIDE:
        raise NotNative(f"a matrix product does not apply {kind}")
    _product(node, f"LLMC_{kind.upper()}", is_gated=True)


def ternary_linear(node: NativeNode) -> None:
    """`ternary.reference.ternary_linear`: both sides are rounded as the packed format rounds them."""
    bits = node.field("activation_bits")
    if bits != 8:
        raise NotNative("activations beside ternary weights have 8 bits in C")
    _product(node, "LLMC_IDENTITY", is_gated=False, packing="ternary")


def _product(node: NativeNode, activation: str, *, is_gated: bool, packing: str | None = None) -> None:
    x, weight, y = (
        dense(node, node.input("x")),
        node.weight("weight", is_pair=is_gated, packing=packing, takes_parts=True),
        node.output(),
    )
    inputs = weight.shape[-1]
    rows = x.count if x.width == inputs else f"{x.count} * {x.width // inputs}"
    features = y.width * inputs // x.width
    bias = node.input("bias").pointer if node.has("bias") else "0"
    workspace = node.matrix_workspace(inputs)
    placed = ", .parts = parts, .ends = ends" if weight.parts else ""
    node.region(
        f"{{ {_parts(weight)}llmc_matrix m = {{.weight = {weight.pointer}, .bias = {bias},\n"
        f"  .N = {features}, .K = {inputs}, .format = {FORMATS[weight.format]},\n"
        f"  .activation = {activation}, .is_gated = {int(is_gated)}{placed}}};\n"
        f"llmc_linear(t, &m, {x.pointer}, {y.pointer}, {rows}, {workspace}, 0); }}"
    )


def _parts(weight: Weight) -> str:
    """The tables of a weight whose rows lie in several places."""
    if not weight.parts:
        return ""
    pointers = ", ".join(pointer for pointer, _ in weight.parts)
    ends = ", ".join(str(end) for end in accumulate(rows for _, rows in weight.parts))
    return f"const void *const parts[] = {{{pointers}}};\nstatic const int64_t ends[] = {{{ends}}};\n"


def dense(node: NativeNode, x: Place) -> Place:
    """The value with its rows side by side: itself, or a copy."""
    if x.is_dense:
        return x
    copy = node.workspace(x.width)
    node.row(f"memcpy({copy} + r * {x.width}, {x.row()}, {x.width} * sizeof(float));", rows=x.rows)
    return Place(pointer=copy, shape=x.shape, stride=x.width, rows=x.rows, buffer=copy)
