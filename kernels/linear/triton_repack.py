"""Packed matrices of machine code in the layouts of the Triton kernels: the same whole numbers and scales, bit by bit.

Machine code interleaves 16 rows (`native/pack.h`). Reading a layout is a permutation of bytes, which runs wherever the
tensor is: on a GPU in a few passes at its bandwidth. So one file of packed weights serves both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ternary import triton_pack as ternary_pack
from .triton_pack import join_int4, join_int8

GROUP = 16
"""Rows that machine code interleaves."""
GROUP_BYTES = {"int8": (32, 512, 64), "int4": (32, 288, 0), "int4_128": (128, 1056, 0), "ternary": (32, 128, 64)}
"""Of 16 rows: the columns of a block, its bytes, and the bytes behind all blocks, scales of rows."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A matrix of machine code: uint8, flat, of `rows` by `width` weights; a pair has its gate's rows first."""

    bytes: Tensor
    rows: int
    width: int
    is_pair: bool = False


def size(matrix: Packed, format: str) -> int:
    """Bytes that machine code packs such a matrix into."""
    halves, (block, block_bytes, tail) = 2 if matrix.is_pair else 1, GROUP_BYTES[format]
    groups = -(-(matrix.rows // halves) // GROUP) * halves
    return groups * (-(-matrix.width // block) * block_bytes + tail)


def repack(matrices: Sequence[Packed], format: str) -> Tensor:
    """What `triton_pack` makes of the matrices one below the other, each of the right size."""
    return {"int8": int8, "int4": int4, "int4_128": int4_128, "ternary": ternary}[format](matrices)


def int8(matrices: Sequence[Packed]) -> Tensor:
    """As `triton_pack.pack_int8` of the matrices one below the other."""
    whole, scales = zip(*(_int8(matrix) for matrix in matrices), strict=True)
    return join_int8(torch.cat(whole), torch.cat(scales)[:, None])


def int4(matrices: Sequence[Packed]) -> Tensor:
    """As `triton_pack.pack_int4` of the matrices one below the other."""
    return _int4(matrices, 32)


def int4_128(matrices: Sequence[Packed]) -> Tensor:
    """As `triton_pack.pack_int4_128` of the matrices one below the other."""
    return _int4(matrices, 128)


def ternary(matrices: Sequence[Packed]) -> Tensor:
    """As `ternary.triton_pack.pack` of the matrices one below the other, each with its scale."""
    whole, scales = zip(*(_ternary(matrix) for matrix in matrices), strict=True)
    return ternary_pack.pack_whole(torch.cat(whole), torch.cat(scales))


def _int8(matrix: Packed) -> tuple[Tensor, Tensor]:
    """Whole numbers `[O, I]` int8, scales `[O]` float32."""
    groups, scales = _with_row_scales(matrix)
    columns = groups.view(len(groups), -1, GROUP, 4).transpose(1, 2).flatten(2)
    return _rows(columns, matrix)[:, : matrix.width].bitwise_xor(128).view(torch.int8), scales


def _ternary(matrix: Packed) -> tuple[Tensor, Tensor]:
    """-1, 0 and 1 `[O, I]` int8, scales `[O]` float32."""
    groups, scales = _with_row_scales(matrix)
    lines = groups.view(len(groups), -1, GROUP, 1, 4) >> torch.tensor([0, 2, 4, 6], device=groups.device)[:, None]
    columns = (lines & 3).to(torch.int8).transpose(1, 2).flatten(2) - 1
    return _rows(columns, matrix)[:, : matrix.width], scales


def _int4(matrices: Sequence[Packed], block: int) -> Tensor:
    parts = [_int4_rows(matrix, block) for matrix in matrices]
    whole, scales = (torch.cat(each) for each in zip(*parts, strict=True))
    return join_int4(whole, scales, matrices[0].width, block)


def _int4_rows(matrix: Packed, block: int) -> tuple[Tensor, Tensor]:
    """Codes w + 8 `[O, I']` uint8, scales `[O, I' / block]` float16; I' is I rounded up to whole blocks."""
    blocks = -(-matrix.width // block)
    groups = matrix.bytes.view(-1, blocks, block * 8 + 2 * GROUP)
    lines = groups[..., : block * 8].reshape(-1, blocks, block // 8, GROUP, 4)
    halves = torch.stack((lines & 15, lines >> 4), dim=4)  # [groups, blocks, lines, 16, 2, 4]
    codes = halves.permute(0, 3, 1, 2, 4, 5).flatten(2)
    scales = groups[..., block * 8 :].contiguous().view(torch.float16).transpose(1, 2)
    return _rows(codes, matrix), _rows(scales, matrix)


def _with_row_scales(matrix: Packed) -> tuple[Tensor, Tensor]:
    """The lines of each group, and the scale of each row `[O]`."""
    count = -(-(matrix.rows // 2 if matrix.is_pair else matrix.rows) // GROUP) * (2 if matrix.is_pair else 1)
    groups = matrix.bytes.view(count, -1)
    scales = groups[:, -4 * GROUP :].contiguous().view(torch.float32)
    return groups[:, : -4 * GROUP].contiguous(), _rows(scales, matrix)


def _rows(groups: Tensor, matrix: Packed) -> Tensor:
    """`[groups, 16, …]` -> `[O, …]`: groups of a pair alternate, and rows behind the last are padding."""
    halves = 2 if matrix.is_pair else 1
    rows = groups.reshape(-1, halves, *groups.shape[1:]).transpose(0, 1).flatten(1, 2)
    return rows[:, : matrix.rows // halves].flatten(0, 1)
