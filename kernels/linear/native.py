"""`linear` in C."""

from __future__ import annotations

from ..native.node import NativeNode, Place


def linear(node: NativeNode) -> None:
    """`reference.linear`."""
    x, weight, y = dense(node, node.input("x"), "x"), node.weight("weight"), node.output()
    bias = node.input("bias").pointer if node.has("bias") else "0"
    features, width = weight.shape
    rows = f"{row_count(x)} * {x.width // width}" if x.width != width else row_count(x)
    operands = f"{weight.pointer}, {bias}, {x.pointer}, {y.pointer}"
    node.region(f"llmc_plain_{weight.format}(t, {operands}, {rows}, {features}, {width});")


def dense(node: NativeNode, x: Place, name: str) -> Place:
    """The value with its rows side by side: itself, or a copy."""
    if x.is_dense:
        return x
    copy = node.workspace(name, x.width)
    node.row(f"memcpy({copy} + r * {x.width}, {x.row()}, {x.width} * sizeof(float));", rows=x.rows)
    return Place(pointer=copy, shape=x.shape, stride=x.width, rows=x.rows, buffer=copy)


def row_count(x: Place) -> str:
    """How many rows a value has, in C."""
    return {"tokens": "pass->rows", "batch": "pass->batch", "one": "1"}[x.rows]
