"""Norms in C: each row by one thread, heads or groups one after the other."""

from __future__ import annotations

from typing import cast

from ..native.node import NativeNode, Place


def rms_norm(node: NativeNode) -> None:
    """`reference.rms_norm`."""
    _rms(node, node.input("x"), node.output())


def add_rms_norm(node: NativeNode) -> None:
    """`reference.add_rms_norm`: the sum first, then the norm of it."""
    _rms(node, _sum(node), node.output("out"))


def layer_norm(node: NativeNode) -> None:
    """`reference.layer_norm`."""
    _layer(node, node.input("x"), node.output())


def add_layer_norm(node: NativeNode) -> None:
    """`reference.add_layer_norm`: the sum first, then the norm of it."""
    _layer(node, _sum(node), node.output("out"))


def group_norm(node: NativeNode) -> None:
    """`reference.group_norm`."""
    x, y = node.input("x"), node.output()
    size = x.shape[-1] // cast("int", node.field("num_groups"))
    weight, bias = _feature(node, "weight"), _feature(node, "bias")
    if node.field("centre"):
        _loop(node, x, y, size, f"llmc_layer_norm(y, x, {weight}, {bias}, {node.number('eps')}, {size});")
        return
    body = f"llmc_rms_norm(y, x, {weight}, 0, {node.number('eps')}, {size});"
    if node.has("bias"):
        body += f"\nfor (int64_t i = 0; i < {size}; i++) y[i] += {bias}[i];"
    _loop(node, x, y, size, body)


def l2_norm(node: NativeNode) -> None:
    """`reference.l2_norm`."""
    x, y = node.input("x"), node.output()
    size = cast("int | None", node.field("head_dim")) or x.shape[-1]
    _loop(node, x, y, size, f"llmc_l2_norm(y, x, {node.number('eps')}, {size});")


def _sum(node: NativeNode) -> Place:
    delta, residual, total = node.input("delta"), node.input("residual"), node.output("sum")
    node.row(f"llmc_add({total.row()}, {residual.row()}, {delta.row()}, {total.width});", rows=total.rows)
    return total


def _rms(node: NativeNode, x: Place, y: Place) -> None:
    size = _head_dim(node) or x.shape[-1]
    weight = _feature(node, "weight")
    _loop(
        node,
        x,
        y,
        size,
        f"llmc_rms_norm(y, x, {weight}, {node.number('weight_offset')}, {node.number('eps')}, {size});",
    )


def _layer(node: NativeNode, x: Place, y: Place) -> None:
    size = _head_dim(node) or x.shape[-1]
    weight, bias = _feature(node, "weight"), _feature(node, "bias")
    _loop(node, x, y, size, f"llmc_layer_norm(y, x, {weight}, {bias}, {node.number('eps')}, {size});")


def _head_dim(node: NativeNode) -> int | None:
    return None if node.op.startswith("add_") else cast("int | None", node.field("head_dim"))


def _feature(node: NativeNode, name: str) -> str:
    """The C expression of a weight for the present head: whole, or the head's own part."""
    if not node.has(name):
        return "0"
    weight = node.input(name)
    size = _group_size(node)
    if size is None or weight.width == size:
        return weight.pointer
    return f"({weight.pointer} + h % {weight.width // size} * {size})"


def _group_size(node: NativeNode) -> int | None:
    if node.op == "group_norm":
        return node.input("x").shape[-1] // cast("int", node.field("num_groups"))
    return _head_dim(node)


def _loop(node: NativeNode, x: Place, y: Place, size: int, body: str) -> None:
    heads = x.width // size
    node.row(
        f"for (int64_t h = 0; h < {heads}; h++) {{\n"
        f"const float *x = {x.row()} + h * {size}; float *y = {y.row()} + h * {size};\n{body} }}",
        rows=x.rows,
    )
