"""Whole-number arithmetic of launch grids."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

from typing import cast

import torch


def ceil_div(size: int, block: int) -> int:
    """Blocks that cover `size`."""
    return -(-size // block)


def power_of_2(size: int) -> int:
    """The power of two at or above `size`, at least 1: what a block of `tl.arange` takes."""
    return 1 << max(0, size - 1).bit_length()


def at_least(least: int, size: int) -> int:
    """`max`, but of a symbolic size no question is asked: it serves every length."""
    return cast("int", torch.sym_max(least, size))


def at_most(most: int, size: int) -> int:
    """`min`, likewise."""
    return cast("int", torch.sym_min(most, size))
