"""Embedding in C: copies a row of the table."""

from __future__ import annotations

from typing import cast

from ..native.node import NativeNode


def embedding(node: NativeNode) -> None:
    """`reference.embedding`."""
    ids, weight, y = node.input("ids"), node.weight("weight"), node.output()
    scale = node.number("scale")
    factor = f"llmc_rounded_{weight.format}((float)({scale}))"
    node.row(
        f"{{ int64_t row = *({ids.row()}) + {cast('int', node.field('offset'))};\n"
        f"llmc_embed_{weight.format}({y.row()}, {weight.pointer}, row < 0 ? 0 : row, {y.width}, {factor}); }}",
        rows=y.rows,
    )
