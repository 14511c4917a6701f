"""Packs matrices for the kernels in C, on all cores, into memory of huge pages where the system has them."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import torch
from torch import Tensor

from .team import thread_count

FORMATS = {"float32": 0, "bfloat16": 1, "float16": 2, "int8": 3, "int4": 4, "int4_128": 5, "ternary": 6}
"""The numbers of `linear.h`."""

SOURCES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""The numbers of `numbers.h`."""
HUGE_PAGE = 2 << 20


def declare(library: ctypes.CDLL) -> None:
    """Tell ctypes the types of the packing functions."""
    library.llmc_pack_bytes.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_int)
    library.llmc_pack_bytes.restype = ctypes.c_int64
    library.llmc_pack_groups.argtypes = (ctypes.c_int64, ctypes.c_int)
    library.llmc_pack_groups.restype = ctypes.c_int64
    library.llmc_pack.argtypes = (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int,
        ctypes.c_float,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    )
    library.llmc_pack.restype = None
    library.llmc_unpack.argtypes = (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int,
        ctypes.c_void_p,
    )
    library.llmc_unpack.restype = None
    library.llmc_mean_magnitude.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)
    library.llmc_mean_magnitude.restype = ctypes.c_float


def packed_bytes(
    library: ctypes.CDLL, shape: Sequence[int], format: str, *, is_pair: bool, is_in_out: bool = False
) -> int:
    """Bytes of a packed matrix `[N, K]`, or `[2N, K]` of a pair; of a stack `[E, …]` of such, one behind the other.

    is_in_out: the matrices of a stack are `[K, N]`.
    """
    count, rows, inputs = _sizes(shape, is_in_out=is_in_out)
    features = rows // 2 if is_pair else rows
    return count * int(library.llmc_pack_bytes(FORMATS[format], features, inputs, int(is_pair)))


def pack(library: ctypes.CDLL, weight: Tensor, format: str, *, is_pair: bool, is_in_out: bool = False) -> Tensor:
    """weight `[N, K]` (a pair: `[2N, K]`, gate rows first) float, or a stack of them -> uint8, as `pack.h` lays it out.

    Each matrix of a stack has scales of its own. is_in_out: they are `[K, N]`.
    """
    count, rows, inputs = _sizes(weight.shape, is_in_out=is_in_out)
    out = aligned_bytes(packed_bytes(library, weight.shape, format, is_pair=is_pair, is_in_out=is_in_out))
    matrices = weight.mT if is_in_out else weight.reshape(count, rows, inputs)
    with ThreadPoolExecutor(thread_count()) as pool:
        for matrix, memory in zip(matrices, out.view(count, -1), strict=True):
            _pack_matrix(library, pool, matrix.contiguous(), format, memory, is_pair=is_pair)
    return out


def _pack_matrix(
    library: ctypes.CDLL, pool: ThreadPoolExecutor, weight: Tensor, format: str, out: Tensor, *, is_pair: bool
) -> None:
    rows, inputs = weight.shape
    features = rows // 2 if is_pair else rows
    source, kind, number = weight.data_ptr(), SOURCES[weight.dtype], FORMATS[format]
    scale = library.llmc_mean_magnitude(source, kind, weight.numel()) if format == "ternary" else 0.0
    groups = library.llmc_pack_groups(features, int(is_pair))
    share = max(1, -(-groups // (4 * thread_count())))

    def part(first: int) -> None:
        last = min(groups, first + share)
        library.llmc_pack(number, source, kind, features, inputs, int(is_pair), scale, first, last, out.data_ptr())

    list(pool.map(part, range(0, groups, share)))


def unpack(
    library: ctypes.CDLL,
    packed: Tensor,
    shape: Sequence[int],
    format: str,
    *,
    is_pair: bool,
    is_in_out: bool = False,
) -> Tensor:
    """What kernels multiply with: the matrix `[N, K]` (a pair: `[2N, K]`), or stack, of this shape as float32."""
    count, rows, inputs = _sizes(shape, is_in_out=is_in_out)
    features, out = rows // 2 if is_pair else rows, torch.empty(count, rows, inputs)
    for memory, matrix in zip(packed.view(count, -1), out, strict=True):
        library.llmc_unpack(FORMATS[format], memory.data_ptr(), features, inputs, int(is_pair), matrix.data_ptr())
    return out.mT.contiguous() if is_in_out else out.view(*shape)


def _sizes(shape: Sequence[int], *, is_in_out: bool) -> tuple[int, int, int]:
    """How many matrices there are, their rows and their inputs."""
    count, (rows, inputs) = shape[0] if len(shape) > 2 else 1, shape[-2:]
    return (count, inputs, rows) if is_in_out else (count, rows, inputs)


def aligned_bytes(size: int) -> Tensor:
    """Fresh memory `[size]` uint8 on a cache line, of huge pages where that is worth it and allowed."""
    if size < HUGE_PAGE:
        memory = torch.empty(size + 64, dtype=torch.uint8)
        return memory[-memory.data_ptr() % 64 :][:size]
    block = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError):
        block.madvise(mmap.MADV_HUGEPAGE)
    memory = torch.frombuffer(block, dtype=torch.uint8)
    return memory[-memory.data_ptr() % HUGE_PAGE :][:size]
