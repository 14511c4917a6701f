"""Measures what this machine can do at most: bytes read a second, and products and sums a second in registers."""

from __future__ import annotations

import ctypes
import time

from .objects import shared_library
from .packing import aligned_bytes
from .team import team, thread_count

STRIPE = 1 << 20
KINDS = {"float32": 0, "bfloat16": 1, "float16": 0, "int8": 2}
"""The kind of arithmetic of each dtype; the kernels widen float16."""

_STEPS = 200_000
_SUMS = 256


class Probe:
    """Memory to read on all threads of the process's team.

    size: bytes, rounded up to whole MiB. Raises NoCompiler where nothing can be compiled.
    """

    def __init__(self, size: int) -> None:
        self._library = ctypes.CDLL(str(shared_library("", ("native/probe.c", "native/team.c"))))
        self._library.llmc_probe_read.argtypes = (*(ctypes.c_void_p,) * 2, ctypes.c_int64, ctypes.c_void_p)
        self._library.llmc_probe_read.restype = None
        self._library.llmc_probe_multiply.restype = ctypes.c_double
        self._library.llmc_probe_multiply.argtypes = (
            ctypes.c_void_p,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int64,
            ctypes.c_void_p,
        )
        self._memory = aligned_bytes(-(-size // STRIPE) * STRIPE)
        self._memory.fill_(1)
        self._sums = (ctypes.c_float * _SUMS)()

    def bandwidth(self, size: int | None = None) -> float:
        """Bytes per second of one pass over the memory, or over its first `size` bytes."""
        wanted = self._memory.numel() if size is None else min(self._memory.numel(), -(-size // STRIPE) * STRIPE)
        started = time.perf_counter()
        threads = team(thread_count()).pointer
        self._library.llmc_probe_read(threads, self._memory.data_ptr(), wanted, ctypes.addressof(self._sums))
        return wanted / (time.perf_counter() - started)

    def rate(self, dtype: str) -> float:
        """Operations per second, a product and its sum being two; dtype: one of KINDS."""
        started = time.perf_counter()
        done: float = self._library.llmc_probe_multiply(
            team(thread_count()).pointer, thread_count(), KINDS[dtype], _STEPS, ctypes.addressof(self._sums)
        )
        return done / (time.perf_counter() - started)
