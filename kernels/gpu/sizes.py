"""Whole-number arithmetic of launch grids."""

from __future__ import annotations


def ceil_div(size: int, block: int) -> int:
    """Blocks that cover `size`."""
    return -(-size // block)


def power_of_2(size: int) -> int:
    """The power of two at or above `size`, at least 1: what a block of `tl.arange` takes."""
    return 1 << max(0, size - 1).bit_length()
