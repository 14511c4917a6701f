"""Ops that move features, in C: views where they can be, copies where they must."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from ..native.node import NativeNode, NotNative


def split_heads(node: NativeNode) -> None:
    """`reference.split_heads`: the parts of each head are brought together."""
    x = node.input("x")
    sizes = cast("Mapping[str, int]", node.field("sizes"))
    whole, start = sum(sizes.values()), 0
    heads, lines = x.width // whole, list[str]()
    for port, size in sizes.items():
        y = node.output(port)
        lines.append(
            f"for (int64_t h = 0; h < {heads}; h++) "
            f"memcpy({y.row()} + h * {size}, {x.row()} + h * {whole} + {start}, {size} * sizeof(float));"
        )
        start += size
    node.row("\n".join(lines), rows=x.rows)


def slice_features(node: NativeNode) -> None:
    """`reference.slice_features`."""
    x = node.input("x")
    if x.width != x.shape[-1]:
        raise NotNative("several axes are cut")
    size = cast("int", node.field("size"))
    try:
        node.alias("out", x.part(cast("int", node.field("start")), (size,)))
    except NotNative:
        y, start = node.output(), node.number("start")
        node.row(f"memcpy({y.row()}, {x.row()} + (int64_t)({start}), {size} * sizeof(float));", rows=y.rows)


def tile(node: NativeNode) -> None:
    """`reference.tile`."""
    x, y, times = node.input("x"), node.output(), cast("int", node.field("times"))
    size = x.shape[-1]
    copy = f"memcpy({y.row()} + i * {size}, {x.row()} + i / {times} * {size}, {size} * sizeof(float));"
    node.row(f"for (int64_t i = 0; i < {y.width // size}; i++) {copy}", rows=y.rows)


def reshape(node: NativeNode) -> None:
    """`reference.reshape`: the same memory."""
    x = node.input("x")
    if node.field("keep") != {"tokens": 2, "batch": 1, "one": 0}[x.rows]:
        raise NotNative("axes of tokens are reshaped")
    node.alias("out", x.part(0, tuple(cast("list[int]", node.field("shape")))))


def mix_streams(node: NativeNode) -> None:
    """`reference.mix_streams`."""
    x, weights, y = node.input("x"), node.input("weights"), node.output()
    streams = cast("int", node.field("num_streams"))
    size, made = x.width // streams, weights.width // streams
    node.row(
        f"for (int64_t s = 0; s < {made}; s++) {{\n"
        f"const float *x = {x.row()}, *w = {weights.row()} + s * {streams}; float *y = {y.row()} + s * {size};\n"
        f"for (int64_t i = 0; i < {size}; i++) {{ float sum = 0;\n"
        f"for (int64_t k = 0; k < {streams}; k++) sum += w[k] * x[k * {size} + i];\ny[i] = sum; }} }}",
        rows=y.rows,
    )
