"""Stacks of packed matrices, as the Triton kernels read them: uint8 `[E, bytes]`, each row a matrix, outputs first, as
`linear.triton_pack` or `ternary.triton_pack` lays it out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from ..linear import triton_pack
from ..linear.triton_pack import GROUPS, padded
from ..linear.triton_repack import Packed, repack
from ..ternary import triton_pack as ternary_pack
from . import reference
from .fields import Experts
from .operands import Operands
from .packed_reference import INWARD, packed_experts

PACKERS: dict[str, Callable[[Tensor], Tensor]] = {
    "int8": triton_pack.pack_int8,
    "int4": triton_pack.pack_int4,
    "int4_128": triton_pack.pack_int4_128,
    "ternary": ternary_pack.pack,
}


GROUP = {"ternary": 0, "int8": 1, **GROUPS}
"""Columns that share a scale; 0 and 1: a row has one."""


def pack(weight: Tensor, format: str, *, is_in_out: bool) -> Tensor:
    """weight `[E, O, I]` float, or with is_in_out `[E, I, O]` -> `[E, bytes]`, each matrix with scales of its own."""
    return torch.stack([PACKERS[format](matrix) for matrix in (weight.mT if is_in_out else weight)])


def int8(weight: Tensor, *, is_in_out: bool) -> Tensor:
    """A stack of int8."""
    return pack(weight, "int8", is_in_out=is_in_out)


def int4(weight: Tensor, *, is_in_out: bool) -> Tensor:
    """A stack of int4, groups of 32."""
    return pack(weight, "int4", is_in_out=is_in_out)


def int4_128(weight: Tensor, *, is_in_out: bool) -> Tensor:
    """A stack of int4, groups of 128."""
    return pack(weight, "int4_128", is_in_out=is_in_out)


def ternary(weight: Tensor, *, is_in_out: bool) -> Tensor:
    """A stack of ternary matrices."""
    return pack(weight, "ternary", is_in_out=is_in_out)


def repack_stack(matrices: Sequence[Packed], format: str) -> Tensor:
    """As `pack`, of matrices that machine code packed."""
    return torch.stack([repack([matrix], format) for matrix in matrices])


def row_bytes(width: int, format: str) -> tuple[int, int]:
    """Bytes of a row's numbers, and of its scales."""
    if format == "ternary":
        return ternary_pack.quarter(width), ternary_pack.SCALE
    if format == "int8":
        return padded(width, 1), 4
    size = padded(width, GROUPS[format])
    return size // 2, 2 * size // GROUPS[format]


def rows_of(stack: Tensor, width: int, format: str) -> int:
    """O, the outputs of each matrix."""
    return stack.shape[1] // sum(row_bytes(width, format))


def row_of(width: int, format: str) -> tuple[int, int]:
    """Bytes of a row's numbers, and how many scales it has."""
    size, scale_bytes = row_bytes(width, format)
    return size, scale_bytes // (2 if format in GROUPS else 4)


def scales_of(stack: Tensor, format: str) -> Tensor:
    """The same memory, counted in scales."""
    return stack.view(torch.float16 if format in GROUPS else torch.float32)


def dequantised(stack: Tensor, width: int, format: str) -> Tensor:
    """`[E, O, I]` float32: what the kernels multiply with."""
    rows, (size, scale_bytes) = rows_of(stack, width, format), row_bytes(width, format)
    numbers = stack[:, : rows * size].view(len(stack), rows, size)
    dtype = torch.float16 if format in GROUPS else torch.float32
    scales = stack[:, rows * size :].contiguous().view(dtype).view(len(stack), rows, -1, 1).float()
    if format == "int8":
        whole = numbers.view(torch.int8)
    elif format == "ternary":
        shifts = torch.tensor([0, 2, 4, 6], device=stack.device)[:, None]
        whole = (numbers[:, :, None] >> shifts & 3).flatten(2).to(torch.int8) - 1
    else:
        whole = torch.cat((numbers & 15, numbers >> 4), -1).to(torch.int8) - 8
    assert scale_bytes == scales.shape[2] * dtype.itemsize
    return (whole.view(len(stack), rows, scales.shape[2], -1).float() * scales).flatten(2)[..., :width]


def widened(given: Experts, format: str) -> Experts:
    """With stacks `[E, O, I]` in x's dtype instead of packed ones."""
    width, dtype = given.x.shape[-1], given.x.dtype
    stacks = {name: cast("Tensor | None", getattr(given, name)) for name in INWARD}
    wide = {name: dequantised(stack, width, format) for name, stack in stacks.items() if stack is not None}
    inner = wide["up_proj"].shape[1] if "up_proj" in wide else wide["gate_up_proj"].shape[1] // 2
    wide["down_proj"] = dequantised(given.down_proj, inner, format)
    return replace(given, **{name: stack.to(dtype) for name, stack in wide.items()})


def packed_by_reference(given: Operands, format: str) -> Tensor:
    """What operators on packed weights give: beside ternary ones activations are rounded."""
    wide = widened(given.record(), format)
    if format == "ternary":
        return packed_experts(wide, in_format=format, down_format=format).contiguous()
    return reference.experts.of(wide).contiguous()
