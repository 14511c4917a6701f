"""Rows of features as the norms hold them: many short ones or one long one a program, copied only if they must be."""

from __future__ import annotations

from torch import Tensor

from ..gpu.sizes import ceil_div, power_of_2

HELD = 2048
"""Features that one program of many short rows holds."""


def rows_of(x: Tensor) -> Tensor:
    """x `[..., F]` -> `[N, F]`, a view where the rows have one stride and the features none but 1."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def block_of(width: int, rows: int) -> tuple[int, int, int]:
    """Block sizes of rows and of features, and warps: one long row a program, or several short ones."""
    block = power_of_2(width)
    held = min(max(1, HELD // block), power_of_2(rows))
    return held, block, min(32, max(1, held * block // 512))


def parts_of(rows: int, most: int = 256) -> tuple[int, int]:
    """Rows a program, and programs: at most `most` partial sums of a weight's gradient."""
    each = max(1, ceil_div(rows, most))
    return each, ceil_div(rows, each)
