"""RoPE in C: the table of angles, and its use, one row at a time."""

from __future__ import annotations

from typing import cast

import torch

from ..native.node import NativeNode, NotNative, fields_of
from ..record import shared
from .fields import Rope, RopeLaw, RopeTable
from .reference import rope_law

BY_LENGTH = ("dynamic", "longrope")
"""Scalings whose frequencies depend on how long each row has become."""


def rope_table(node: NativeNode) -> None:
    """`reference.rope_table` where the frequencies are constants: they are computed here, by the reference."""
    given = fields_of(node, RopeTable)
    if given.scaling in BY_LENGTH:
        raise NotNative(f"scaling {given.scaling} depends on the length of each row")
    position, y = node.input("position"), node.output()
    half, start = y.width // 2, torch.zeros(1, 1, dtype=torch.int64)
    frequency, gain = rope_law(position=start, rotary_dim=given.rotary_dim, **shared(given, RopeLaw))
    table = node.constant("frequency", cast("list[float]", frequency.tolist()))  # pyright: ignore[reportUnknownMemberType]
    node.row(
        f"{{ int64_t p = *({position.row()}); float *y = {y.row()};\n"
        f"for (int i = 0; i < {half}; i++) {{\nfloat angle = (float)(p < 0 ? 0 : p) * {table}[i];\n"
        f"y[i] = cosf(angle) * {gain!r}f; y[{half} + i] = sinf(angle) * {gain!r}f; }} }}"
    )


def rope_apply(node: NativeNode) -> None:
    """`reference.rope_apply`."""
    given, x, table, y = fields_of(node, Rope), node.input("x"), node.input("table"), node.output()
    heads, size = x.width // given.head_dim, given.head_dim
    node.row(
        f"llmc_rope_{given.layout}({y.row()}, {x.row()}, {table.row()}, {heads}, {size}, {given.rotary_dim or size});"
    )
