"""Ops without weights that read positions, in C."""

from __future__ import annotations

from typing import cast

import torch

from ..native.node import NativeNode


def pool(node: NativeNode) -> None:
    """`reference.pool`."""
    x, y = node.input("x"), node.output()
    node.row(
        f"llmc_pool_{node.field('kind')}({y.row()}, {x.pointer} + r * pass->tokens * {x.stride}, {x.stride},\n"
        f"  pass->position + r * pass->tokens, pass->tokens, {y.width});",
        rows="batch",
    )


def sinusoidal(node: NativeNode) -> None:
    """`reference.sinusoidal`."""
    position, y = node.input("position"), node.output()
    waves = cast("float", node.field("theta")) ** (torch.arange(0, y.width, 2, dtype=torch.float32) / y.width)
    wave = node.constant("waves", cast("list[float]", waves.tolist()))  # pyright: ignore[reportUnknownMemberType]
    step, offset = (2, 1) if node.field("layout") == "interleaved" else (1, (y.width + 1) // 2)
    node.row(f"llmc_sinusoidal({y.row()}, *({position.row()}), {wave}, {step}, {offset}, {y.width});", rows=y.rows)


def position_scale(node: NativeNode) -> None:
    """`reference.position_scale`."""
    x, y = node.input("x"), node.output()
    scale, period, offset = (node.number(name) for name in ("scale", "period", "offset"))
    node.row(
        f"{{ float factor = llmc_position_factor(pass->position[r], (float)({scale}), (float)({period}), "
        f"(int64_t)({offset}));\n"
        f"for (int64_t i = 0; i < {y.width}; i++) ({y.row()})[i] = ({x.row()})[i] * factor; }}",
        rows=y.rows,
    )
