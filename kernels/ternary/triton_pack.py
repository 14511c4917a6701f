"""Ternary matrices in 2 bits a weight, as the Triton kernels read them.

One flat uint8 tensor: O rows of Q bytes, then O float32 scales. Q is a quarter of the inputs, rounded up to 16, so that
a thread loads 16 bytes. Bits 2f and 2f+1 of byte q hold column `f * Q + q`, as weight + 1: a field of a row's bytes
meets a contiguous quarter of the activations. Behind the last column stand zeros of the activations, which make the
weights there count for nothing. A scale a row lets matrices of several scales stand in one: q, k and v.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .reference import matrices_of, ternary_weight

SCALE = 4
"""Bytes of a row's scale."""


def quarter(width: int) -> int:
    """Bytes of a packed row of `width` weights."""
    return -(-width // 64) * 16


def pack(weight: Tensor, parts: Sequence[int] | None = None) -> Tensor:
    """weight `[O, I]` float -> uint8 `[O * (quarter(I) + 4)]`, rounded as the reference rounds.

    parts: the rows of the matrices that stand in it, each with a scale of its own; None: it is one.
    """
    rounded = [ternary_weight(matrix) for matrix in matrices_of(weight, parts)]
    ternary = torch.cat([whole.to(torch.int8) for whole, _ in rounded])
    scales = torch.cat([(1.0 / inverse).float().expand(len(whole)) for whole, inverse in rounded])
    return pack_whole(ternary, scales)


def pack_whole(ternary: Tensor, scales: Tensor) -> Tensor:
    """ternary `[O, I]` int8 of -1, 0 and 1, scales `[O]` float32 -> uint8 `[O * (quarter(I) + 4)]`."""
    rows, width = ternary.shape
    size = quarter(width)
    codes = torch.ones((rows, 4 * size), dtype=torch.uint8, device=ternary.device)
    codes[:, :width] = (ternary + 1).to(torch.uint8)
    fields = codes.view(rows, 4, size)
    packed = fields[:, 0] | fields[:, 1] << 2 | fields[:, 2] << 4 | fields[:, 3] << 6
    return torch.cat((packed.flatten(), scales.contiguous().view(torch.uint8)))


def unpack(packed: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """What `pack` made of rows of `width` weights -> ternary `[O, I]` int8 and scales `[O]` float32."""
    size, rows = quarter(width), rows_of(packed, width)
    fields = packed[: rows * size].view(-1, 1, size) >> torch.tensor([0, 2, 4, 6], device=packed.device)[:, None]
    ternary = (fields & 3).to(torch.int8).flatten(1)[:, :width] - 1
    return ternary.contiguous(), scales_of(packed, width)


def rows_of(packed: Tensor, width: int) -> int:
    """O, the outputs of a packed matrix."""
    return packed.numel() // (quarter(width) + SCALE)


def scales_of(packed: Tensor, width: int) -> Tensor:
    """The scales `[O]` float32, a view."""
    return packed[rows_of(packed, width) * quarter(width) :].view(torch.float32)
