"""Looks for NaN and infinity in large tensors on all cores, at the speed of memory."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from torch import Tensor

from .objects import shared_library
from .packing import SOURCES
from .team import thread_count
from .toolchain import NoCompiler

LEAST = 1 << 20
"""Numbers that are worth it."""


@cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(shared_library("", ("native/finite.c",))))
    except NoCompiler:
        return None
    library.llmc_all_finite.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)
    library.llmc_all_finite.restype = ctypes.c_int
    return library


def is_finite(tensor: Tensor) -> bool:
    """True where all numbers of a large tensor are finite; False where they are not, or where this cannot say."""
    kind = SOURCES.get(tensor.dtype)
    if tensor.numel() < LEAST or kind is None or tensor.device.type != "cpu" or not tensor.is_contiguous():
        return False
    library = _library()
    if library is None:
        return False
    flat, size = tensor.detach().view(-1), -(-tensor.numel() // thread_count())

    def look(start: int) -> bool:
        part = flat[start : start + size]
        return bool(library.llmc_all_finite(part.data_ptr(), kind, part.numel()))

    with ThreadPoolExecutor(thread_count()) as pool:
        return all(pool.map(look, range(0, flat.numel(), size)))
