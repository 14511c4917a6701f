"""Ternary matrices in 2 bits a weight, as the Triton kernels read them.

One flat uint8 tensor: O rows of Q bytes, then the scale of the whole matrix, a float32 in 16 bytes. Q is a quarter of
the inputs, rounded up to 16, so that a thread loads 16 bytes. Bits 2f and 2f+1 of byte q hold column `f * Q + q`, as
weight + 1: a field of a row's bytes meets a contiguous quarter of the activations. Behind the last column stand zeros
of the activations, which make the weights there count for nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .reference import quantised_activation, ternary_weight

TAIL = 16
"""Bytes behind the rows, which hold the scale and keep what follows aligned."""


def quarter(width: int) -> int:
    """Bytes of a packed row of `width` weights."""
    return -(-width // 64) * 16


def pack(weight: Tensor) -> Tensor:
    """weight `[O, I]` float -> uint8 `[O * quarter(I) + 16]`, its weights rounded as the reference rounds them."""
    ternary, inverse = ternary_weight(weight)
    return pack_whole(ternary.to(torch.int8), 1.0 / inverse)


def pack_whole(ternary: Tensor, scale: Tensor) -> Tensor:
    """ternary `[O, I]` int8 of -1, 0 and 1, scale `[]` float -> uint8 `[O * quarter(I) + 16]`."""
    rows, width = ternary.shape
    size = quarter(width)
    codes = torch.ones((rows, 4 * size), dtype=torch.uint8, device=ternary.device)
    codes[:, :width] = (ternary + 1).to(torch.uint8)
    fields = codes.view(rows, 4, size)
    packed = fields[:, 0] | fields[:, 1] << 2 | fields[:, 2] << 4 | fields[:, 3] << 6
    tail = torch.zeros(TAIL, dtype=torch.uint8, device=ternary.device)
    tail[:4] = scale.float().reshape(1).view(torch.uint8)
    return torch.cat((packed.flatten(), tail))


def unpack(packed: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """What `pack` made of rows of `width` weights -> ternary `[O, I]` int8 and the scale `[]` float32."""
    size = quarter(width)
    fields = packed[:-TAIL].view(-1, 1, size) >> torch.tensor([0, 2, 4, 6], device=packed.device)[:, None]
    ternary = (fields & 3).to(torch.int8).flatten(1)[:, :width] - 1
    return ternary.contiguous(), packed[-TAIL:].view(torch.float32)[0]


def rows_of(packed: Tensor, width: int) -> int:
    """O, the outputs of a packed matrix."""
    return (packed.numel() - TAIL) // quarter(width)


def ternary_linear(*, x: Tensor, weight: Tensor, bias: Tensor | None = None, activation_bits: int | None = 8) -> Tensor:
    """The reference's `ternary_linear` on a packed weight, in torch."""
    ternary, scale = unpack(weight, x.shape[-1])
    if activation_bits is not None:
        whole, factor = quantised_activation(x, activation_bits)
        x = (whole / factor).to(x.dtype)
    return functional.linear(x, (ternary * scale).to(x.dtype), bias)
