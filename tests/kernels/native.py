"""Compiles kernels in C for one instruction set with the machine's compiler, and calls them on NumPy arrays."""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

KERNELS = Path(__file__).parent.parent.parent / "kernels"
INSTRUCTION_SETS = {
    "native": ("-march=native",),
    "bf16_dot": ("-march=x86-64-v4", "-mavx512bf16", "-DLLMC_BF16_DOT=1"),
    "avx512": ("-march=x86-64-v4",),
    "vnni": ("-march=x86-64-v4", "-mavx512vnni"),
    "avxvnni": ("-march=x86-64-v3", "-mavxvnni"),
    "avx2": ("-march=x86-64-v3",),
    "portable": (),
}
"""Compiler flags of each path through the kernels."""
NEEDS = {
    "native": "",
    "bf16_dot": "avx512f avx512bw avx512vl avx512dq avx512_bf16",
    "avx512": "avx512f avx512bw avx512vl avx512dq",
    "vnni": "avx512f avx512bw avx512vl avx512dq avx512_vnni",
    "avxvnni": "avx2 fma f16c avx_vnni",
    "avx2": "avx2 fma f16c",
    "portable": "",
}
"""Words of /proc/cpuinfo without which a path cannot run."""
_FOLDERS: list[Path] = []


@functools.cache
def _processor() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def build_in(folder: Path) -> None:
    """Where libraries are built; workers that share it build each once."""
    _FOLDERS[:] = [folder]


@functools.cache
def library(name: str, sources: Sequence[Path], extra: str = "") -> ctypes.CDLL:
    """The shared library of `sources` and the text `extra`, for one of INSTRUCTION_SETS; skips where it cannot run."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler on this machine (cc, gcc or clang)")
    lacking = sorted(set(NEEDS[name].split()) - _processor())
    if lacking:
        pytest.skip(f"this processor lacks {', '.join(lacking)}")
    (folder,) = _FOLDERS
    key = hashlib.sha256(repr((name, sources, extra)).encode()).hexdigest()[:16]
    target = folder / f"{key}.so"
    with (folder / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _compile(compiler, name, sources, extra, target)
    return ctypes.CDLL(str(target))


def _compile(compiler: str, name: str, sources: Sequence[Path], extra: str, target: Path) -> None:
    text = target.with_suffix(".c")
    text.write_text(extra, encoding="utf-8")
    flags = [*INSTRUCTION_SETS[name], "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
    places = [f"-I{KERNELS / 'native'}", *(f"-I{p}" for p in sorted({str(s.parent) for s in sources}))]
    command = [compiler, *flags, *places, *map(str, sources), str(text), "-o", str(target), "-lpthread", "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"


def pointer(array: NDArray[np.generic] | None) -> ctypes.c_void_p:
    """Where the elements of a contiguous array are; NULL for None."""
    if array is None:
        return ctypes.c_void_p(None)
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)
