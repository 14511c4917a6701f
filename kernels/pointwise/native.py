"""Ops without weights that treat tokens alone, in C: one loop over the features of a row."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from statistics import NormalDist
from typing import cast

from ..native.node import NativeNode, NotNative, Place, literal


def add(node: NativeNode) -> None:
    """`reference.add`."""
    _binary(node, "+")


def sum_of(node: NativeNode) -> None:
    """`reference.sum_of`."""
    y = node.output()
    total = " + ".join(_read(x, y) for x in node.inputs("xs"))
    _each(node, y, f"({total}) * {_float(node.number('scale'))}")


def mul(node: NativeNode) -> None:
    """`reference.mul`."""
    _binary(node, "*")


def sub(node: NativeNode) -> None:
    """`reference.sub`."""
    _binary(node, "-")


def div(node: NativeNode) -> None:
    """`reference.div`."""
    _binary(node, "/")


def lerp(node: NativeNode) -> None:
    """`reference.lerp`."""
    a, b, weight, y = node.input("a"), node.input("b"), node.input("weight"), node.output()
    first, second, third = _read(a, y), _read(b, y), _read(weight, y)
    _each(node, y, f"{first} + ({second} - {first}) * {third}")


def clamp(node: NativeNode) -> None:
    """`reference.clamp`: NaN stays NaN, and bounds that cross give the upper one."""
    x, y = node.input("x"), node.output()
    value = _read(x, y)
    text, bounds = value, {name: cast("float | None", node.field(name)) for name in ("min", "max")}
    if bounds["min"] is not None:
        least = bounds["min"] if bounds["max"] is None else min(bounds["min"], bounds["max"])
        text = f"({value} < {_float(literal(bounds['min']))} ? {_float(literal(least))} : {text})"
    if bounds["max"] is not None:
        text = f"({value} > {_float(literal(bounds['max']))} ? {_float(literal(bounds['max']))} : {text})"
    _each(node, y, text)


def scale(node: NativeNode) -> None:
    """`reference.scale`."""
    x, y = node.input("x"), node.output()
    _each(node, y, f"{_read(x, y)} * {_float(node.number('factor'))} + {_float(node.number('offset'))}")


def softcap(node: NativeNode) -> None:
    """`reference.softcap`."""
    x, y = node.input("x"), node.output()
    node.row(f"llmc_softcap({y.row()}, {x.row()}, {_float(node.number('cap'))}, {y.width});", rows=y.rows)


def activation(node: NativeNode) -> None:
    """`reference.activation`."""
    x, y = node.input("x"), node.output()
    node.row(f"llmc_activate_{node.field('kind')}({y.row()}, {x.row()}, {y.width});", rows=y.rows)


def gated_activation(node: NativeNode) -> None:
    """`reference.gated_activation`."""
    gate, up, y = node.input("gate"), node.input("up"), node.output()
    if not gate.width == y.width == up.width:
        raise NotNative("gate and up differ in width")
    call = f"llmc_gate_{node.field('kind')}({y.row()}, {gate.row()}, {up.row()}, {y.width});"
    node.row(call, rows=y.rows)


def gated_activation_packed(node: NativeNode) -> None:
    """`reference.gated_activation_packed`."""
    x, y = node.input("x"), node.output()
    size = y.shape[-1]
    call = f"llmc_gate_{node.field('kind')}(y + h * {size}, x + h * {2 * size}, x + h * {2 * size} + {size}, {size});"
    _runs(node, x, y, call)


def identity(node: NativeNode) -> None:
    """`reference.identity`, and dropout in inference."""
    node.alias("out", node.input("x"))


def zeros_like(node: NativeNode) -> None:
    """`reference.zeros_like`."""
    _each(node, node.output(), "0.0f")


def split(node: NativeNode) -> None:
    """`reference.split`: views of the rows."""
    x = node.input("x")
    sizes = cast("Mapping[str, int]", node.field("sizes"))
    if x.width != x.shape[-1]:
        raise NotNative("several axes are split")
    start = 0
    for port, size in sizes.items():
        node.alias(port, x.part(start, (*x.shape[:-1], size)))
        start += size


def concat(node: NativeNode) -> None:
    """`reference.concat`."""
    xs, y = node.inputs("xs"), node.output()
    heads = cast("int", node.field("heads"))
    lines: list[str] = []
    runs = prod(y.shape[:-1]) * heads
    start, width = 0, y.width // runs
    for x in xs:
        size = x.width // runs
        lines.append(
            f"for (int64_t h = 0; h < {runs}; h++) "
            f"memcpy({y.row()} + h * {width} + {start}, {x.row()} + h * {size}, {size} * sizeof(float));"
        )
        start += size
    node.row("\n".join(lines), rows=y.rows)


def reduce(node: NativeNode) -> None:
    """`reference.reduce`."""
    x, y = node.input("x"), node.output()
    size = cast("int | None", node.field("head_dim")) or x.shape[-1]
    number = {
        "sum": f"llmc_sum(x, {size})",
        "mean": f"llmc_sum(x, {size}) / {size}.0f",
        "rms": f"sqrtf(llmc_sum_of_squares(x, {size}, 0) / {size}.0f)",
        "max": f"llmc_largest(x, {size})",
    }[cast("str", node.field("kind"))]
    store = (
        f"for (int64_t i = 0; i < {size}; i++) y[h * {size} + i] = number;" if node.field("keep") else "y[h] = number;"
    )
    node.row(
        f"for (int64_t h = 0; h < {x.width // size}; h++) {{\n"
        f"const float *x = {x.row()} + h * {size}; float *y = {y.row()}, number = {number};\n{store} }}",
        rows=y.rows,
    )


def topk_sparsity(node: NativeNode) -> None:
    """`reference.topk_sparsity`."""
    x = node.input("x")
    sparsity = cast("float", node.field("sparsity"))
    if sparsity == 0.0:
        node.alias("out", x)
        return
    y = node.output()
    quantile = _float(literal(NormalDist().inv_cdf(sparsity)))
    size = y.shape[-1]
    _runs(node, x, y, f"llmc_topk_sparsity(y + h * {size}, x + h * {size}, {quantile}, {size});")


def _float(text: str) -> str:
    return f"(float)({text})"


def _binary(node: NativeNode, operator: str) -> None:
    a, b, y = node.input("a"), node.input("b"), node.output()
    _each(node, y, f"{_read(a, y)} {operator} {_read(b, y)}")


def _read(x: Place, y: Place) -> str:
    """Element i of y's row in x, whose axes of size 1 (or absent ones) are repeated."""
    if x.shape == y.shape or x.width == y.width:
        return f"({x.row()})[i]"
    if x.width == 1:
        return f"({x.row()})[0]"
    shape = ((1,) * (len(y.shape) - len(x.shape)) + x.shape)[-len(y.shape) :]
    terms: list[str] = []
    inner_y, inner_x = 1, 1
    for own, wanted in zip(reversed(shape), reversed(y.shape), strict=True):
        if own != 1:
            terms.append(f"i / {inner_y} % {wanted} * {inner_x}")
        inner_y, inner_x = inner_y * wanted, inner_x * own
    return f"({x.row()})[{' + '.join(terms)}]"


def _runs(node: NativeNode, x: Place, y: Place, call: str) -> None:
    """The call for each run h of y's last axis in a row."""
    runs = prod(y.shape[:-1])
    node.row(
        f"{{ const float *x = {x.row()}; float *y = {y.row()};\nfor (int64_t h = 0; h < {runs}; h++) {call} }}",
        rows=y.rows,
    )


def _each(node: NativeNode, y: Place, value: str) -> None:
    node.row(f"for (int64_t i = 0; i < {y.width}; i++) ({y.row()})[i] = {value};", rows=y.rows)
