"""RoPE in C: the table of angles, and its use, one row at a time."""

from __future__ import annotations

import inspect
from typing import cast

import torch

from ..native.node import NativeNode, NotNative
from .reference import rope_law

BY_LENGTH = ("dynamic", "longrope")
"""Scalings whose frequencies depend on how long each row has become."""


def rope_table(node: NativeNode) -> None:
    """`reference.rope_table` where the frequencies are constants: they are computed here, by the reference."""
    if node.field("scaling") in BY_LENGTH:
        raise NotNative(f"scaling {node.field('scaling')} depends on the length of each row")
    position, y = node.input("position"), node.output()
    half = y.width // 2
    names = [name for name in inspect.signature(rope_law).parameters if name != "position"]
    fields = {name: node.field(name) for name in names}
    frequency, gain = rope_law(position=torch.zeros(1, 1, dtype=torch.int64), **fields)  # pyright: ignore[reportArgumentType]
    table = node.constant("frequency", cast("list[float]", frequency.tolist()))  # pyright: ignore[reportUnknownMemberType]
    node.row(
        f"{{ int64_t p = *({position.row()}); float *y = {y.row()};\n"
        f"for (int i = 0; i < {half}; i++) {{\nfloat angle = (float)(p < 0 ? 0 : p) * {table}[i];\n"
        f"y[i] = cosf(angle) * {gain!r}f; y[{half} + i] = sinf(angle) * {gain!r}f; }} }}"
    )


def rope_apply(node: NativeNode) -> None:
    """`reference.rope_apply`."""
    x, table, y = node.input("x"), node.input("table"), node.output()
    head_dim = cast("int", node.field("head_dim"))
    rotary_dim = cast("int | None", node.field("rotary_dim")) or head_dim
    layout = cast("str", node.field("layout"))
    node.row(
        f"llmc_rope_{layout}({y.row()}, {x.row()}, {table.row()}, {x.width // head_dim}, {head_dim}, {rotary_dim});"
    )
