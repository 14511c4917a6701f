"""Matrices in 8 or 4 bits a weight, as the Triton kernels read them, rounded as those of the kernels in C are.

One flat uint8 tensor: the rows, then all scales. Rows are padded to P columns of zeros.

    int8             P a multiple of 16: O rows of P int8; then O float32 scales, `max |w| / 127` of each row
    int4, int4_128   groups of G = 32 or 128 columns, P a multiple of 2 G: O rows of P / 2 bytes, whose lower four bits
                     hold column b and the upper ones column `P / 2 + b`, as w + 8; then O rows of P / G float16 scales
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

GROUPS = {"int4": 32, "int4_128": 128}
"""Columns that share a scale."""
CHOICES = (-8.0, 7.0, -7.5)
"""What the weight of largest magnitude in a group may become: the choice of least error is taken."""


def padded(width: int, group: int) -> int:
    """P, columns of a stored row. `group` 1 is int8."""
    multiple = 16 if group == 1 else 2 * group
    return -(-width // multiple) * multiple


def pack_int8(weight: Tensor) -> Tensor:
    """weight `[O, I]` float -> uint8 `[O * (P + 4)]`."""
    wide = weight.float()
    scale = wide.abs().amax(-1, keepdim=True) / 127
    inverse = torch.where(scale > 0, 1 / scale, torch.zeros_like(scale))
    return join_int8((wide * inverse).clamp(-127, 127).round().to(torch.int8), scale)


def join_int8(whole: Tensor, scale: Tensor) -> Tensor:
    """Whole numbers `[O, I]` int8, scales `[O, 1]` float32 -> uint8 `[O * (P + 4)]`."""
    whole = functional.pad(whole, (0, padded(whole.shape[1], 1) - whole.shape[1]))
    return torch.cat((whole.view(torch.uint8).flatten(), scale.contiguous().view(torch.uint8).flatten()))


def unpack_int8(packed: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """What `pack_int8` made -> whole numbers `[O, I]` int8 and scales `[O, 1]` float32."""
    size = padded(width, 1)
    rows = packed.numel() // (size + 4)
    whole = packed[: rows * size].view(torch.int8).view(rows, size)[:, :width]
    return whole, packed[rows * size :].view(torch.float32)[:, None]


def pack_int4(weight: Tensor) -> Tensor:
    """weight `[O, I]` float, groups of 32 -> uint8 `[O * (P / 2 + P / 16)]`."""
    return _pack_int4(weight, 32)


def pack_int4_128(weight: Tensor) -> Tensor:
    """weight `[O, I]` float, groups of 128 -> uint8 `[O * (P / 2 + P / 64)]`."""
    return _pack_int4(weight, 128)


def _pack_int4(weight: Tensor, group: int) -> Tensor:
    rows, width = weight.shape
    size = padded(width, group)
    wide = functional.pad(weight.float(), (0, size - width)).view(rows, -1, group)
    most = wide.gather(-1, wide.abs().argmax(-1, keepdim=True))
    best_whole, best_scale = torch.zeros_like(wide), torch.zeros_like(most)
    least = torch.full_like(most, torch.inf)
    for divisor in CHOICES:
        scale = (most / divisor).half().float()
        inverse = torch.where(scale != 0, 1 / scale, torch.zeros_like(scale))
        whole = (wide * inverse).clamp(-8, 7).round()
        error = (whole * scale - wide).square().sum(-1, keepdim=True)
        is_better = error < least
        best_whole, best_scale = torch.where(is_better, whole, best_whole), torch.where(is_better, scale, best_scale)
        least = torch.where(is_better, error, least)
    return join_int4((best_whole + 8).to(torch.uint8).view(rows, -1), best_scale.half().view(rows, -1), width, group)


def join_int4(codes: Tensor, scales: Tensor, width: int, group: int) -> Tensor:
    """Codes w + 8 `[O, at most P]` uint8, scales of groups `[O, …]` float16 -> uint8 `[O * (P / 2 + 2 P / G)]`."""
    size = padded(width, group)
    codes = functional.pad(codes, (0, size - codes.shape[1]), value=8).view(len(codes), 2, -1)
    scales = functional.pad(scales, (0, size // group - scales.shape[1])).contiguous()
    return torch.cat(((codes[:, 0] | codes[:, 1] << 4).flatten(), scales.view(torch.uint8).flatten()))


def unpack_int4(packed: Tensor, width: int, group: int) -> tuple[Tensor, Tensor]:
    """What `pack_int4` made -> whole numbers `[O, P / G, G]` int8, P columns, and scales `[O, P / G, 1]` float16."""
    size = padded(width, group)
    rows = rows_of(packed, width, group)
    codes = packed[: rows * size // 2].view(rows, size // 2)
    whole = torch.cat((codes & 15, codes >> 4), 1).to(torch.int8) - 8
    return whole.view(rows, -1, group), packed[rows * size // 2 :].view(torch.float16).view(rows, -1, 1)


def rows_of(packed: Tensor, width: int, group: int) -> int:
    """O, the outputs of a packed matrix. `group` 1 is int8."""
    size = padded(width, group)
    return packed.numel() // (size + 4 if group == 1 else size // 2 + 2 * size // group)


def dequantised(packed: Tensor, width: int, group: int) -> Tensor:
    """`[O, I]` float32: what the kernels multiply with. `group` 1 is int8."""
    whole, scale = unpack_int8(packed, width) if group == 1 else unpack_int4(packed, width, group)
    return (whole.float() * scale.float()).flatten(1)[:, :width]
