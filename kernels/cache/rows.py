"""How rows of states go on from other rows: the definition of `copy_rows`, and buffers as kernels see them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import gcd, prod
from typing import TypeAlias

import torch
from torch import Tensor

from ..states.protocol import StateKind

Part: TypeAlias = tuple[Tensor, bool]
"""A buffer `[R, …]`, and whether its rows are copied whole; else it is `[R, heads, slots, …]`."""


def parts_of(states: Iterable[tuple[StateKind, Sequence[Tensor]]]) -> list[Part]:
    """The buffers of states that are copied at all."""
    return [(buffer, kind.reorder == "whole") for kind, state in states if kind.reorder != "shared" for buffer in state]


def copy_rows(parts: Sequence[Part], *, source: Tensor, first: Tensor, length: Tensor) -> None:
    """Let row r of every buffer hold what row source[r] does, where it may differ: in its tokens from first[r] on.

    source, first, length `[R]` int64; length: the tokens that the row holds, and so does its source, which is itself or
    a row that is its own source. Nothing is read on the host.
    """
    for buffer, is_whole in parts:
        if is_whole:
            buffer.copy_(buffer[source])
            continue
        slots = buffer.shape[2]
        start = torch.maximum(first, length - slots)[:, None]
        slot = torch.arange(slots, device=buffer.device)
        is_new = ((slot - start) % max(slots, 1) < length[:, None] - start) & (
            source != torch.arange(len(source), device=source.device)
        )[:, None]
        is_new = is_new.view(len(source), 1, slots, *[1] * (buffer.dim() - 3))
        bits = buffer.view(torch.uint8) if buffer.dtype.itemsize == 1 else buffer  # float8 has few operators
        bits.copy_(torch.where(is_new, bits[source], bits))


def described(parts: Sequence[Part]) -> tuple[list[list[int]], int]:
    """`[address, heads, slots, units a slot]` of every buffer, and the bytes of a unit: 8, 4, 2 or 1, which divide all.

    A buffer that is copied whole has one head, no slots, and the units of a row.
    """
    rows = [_shape(buffer, is_whole) for buffer, is_whole in parts]
    unit = gcd(8, *(width for _, _, width in rows))
    found = [
        [buffer.data_ptr(), heads, slots, width // unit]
        for (buffer, _), (heads, slots, width) in zip(parts, rows, strict=True)
    ]
    return found, unit


def _shape(buffer: Tensor, is_whole: bool) -> tuple[int, int, int]:
    """Heads, slots, and bytes of a slot."""
    if not buffer.is_contiguous():
        raise ValueError("the buffers of a cache are contiguous")
    if is_whole:
        return 1, 0, prod(buffer.shape[1:]) * buffer.itemsize
    return buffer.shape[1], buffer.shape[2], prod(buffer.shape[3:]) * buffer.itemsize
