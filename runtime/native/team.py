"""The threads that run machine code: one team for the whole process, made when it is first needed."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from threading import Lock

from ...specs.diagnostics import fail, quoted
from .objects import shared_library

SCRATCH_BYTES = 64 << 20
"""Per thread; only what is touched is ever backed by memory."""


@dataclass(frozen=True, slots=True)
class Team:
    """The threads of one process: the `llmc_team *`, the library of their code, and the lock of who gives them work."""

    pointer: int
    library: ctypes.CDLL
    lock: Lock = field(default_factory=Lock, compare=False)


def thread_count() -> int:
    """`$LLMC_NUM_THREADS`, else `$OMP_NUM_THREADS`, else the processors that this process may use, by its affinity and
    its control group. Raises E0905 where `$LLMC_NUM_THREADS` is no number of threads."""
    for name in ("LLMC_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "")
        if value.isdecimal() and int(value) > 0:
            return int(value)
        if value and name.startswith("LLMC_"):
            raise fail("E0905", f"{name} is {quoted(value)}", help="give a whole number of at least 1")
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError), open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
        quota, period = file.read().split()
        if quota != "max":
            count = min(count, max(1, round(int(quota) / int(period))))
    return count


def team(threads: int) -> Team:
    """So many threads of this process; a child after a fork makes its own. Raises NoCompiler where their code cannot be
    made."""
    return _team(os.getpid(), threads)


@cache
def _team(_process: int, threads: int) -> Team:
    library = ctypes.CDLL(str(shared_library("", ("native/team.c",))))
    library.llmc_team_new.restype = ctypes.c_void_p
    library.llmc_team_new.argtypes = (ctypes.c_int, ctypes.c_size_t)
    made = library.llmc_team_new(threads, SCRATCH_BYTES)
    if not made:
        raise MemoryError("no memory for threads")
    return Team(made, library)
