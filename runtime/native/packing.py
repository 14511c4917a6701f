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


def packed_bytes(library: ctypes.CDLL, shape: Sequence[int], format: str, *, is_pair: bool) -> int:
    """Bytes of a packed matrix `[N, K]`, or `[2N, K]` of a pair."""
    features = shape[0] // 2 if is_pair else shape[0]
    return int(library.llmc_pack_bytes(FORMATS[format], features, shape[1], int(is_pair)))


def pack(library: ctypes.CDLL, weight: Tensor, format: str, *, is_pair: bool) -> Tensor:
    """weight `[N, K]` (a pair: `[2N, K]`, gate rows first) float -> uint8, in the layout of `pack.h`."""
    weight = weight.contiguous()
    rows, inputs = weight.shape
    features = rows // 2 if is_pair else rows
    source, kind, number = weight.data_ptr(), SOURCES[weight.dtype], FORMATS[format]
    out = aligned_bytes(packed_bytes(library, (rows, inputs), format, is_pair=is_pair))
    scale = library.llmc_mean_magnitude(source, kind, weight.numel()) if format == "ternary" else 0.0
    groups = library.llmc_pack_groups(features, int(is_pair))
    share = max(1, -(-groups // (4 * thread_count())))

    def part(first: int) -> None:
        last = min(groups, first + share)
        library.llmc_pack(number, source, kind, features, inputs, int(is_pair), scale, first, last, out.data_ptr())

    with ThreadPoolExecutor(thread_count()) as pool:
        list(pool.map(part, range(0, groups, share)))
    return out


def unpack(library: ctypes.CDLL, packed: Tensor, shape: Sequence[int], format: str, *, is_pair: bool) -> Tensor:
    """What kernels multiply with: the matrix `[N, K]` (a pair: `[2N, K]`) of this shape as float32."""
    features = shape[0] // 2 if is_pair else shape[0]
    out = torch.empty(shape[0], shape[1])
    library.llmc_unpack(FORMATS[format], packed.data_ptr(), features, shape[1], int(is_pair), out.data_ptr())
    return out


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
