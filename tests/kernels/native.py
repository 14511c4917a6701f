"""Compiles kernels in C for one instruction set with the machine's compiler, and calls them on NumPy arrays."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Generator, Sequence
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
    text = _place(repr((name, sources, extra)), ".c")
    with _locked(text):
        if not text.exists():
            text.write_text(extra, encoding="utf-8")
    objects = [
        *(_compiled(compiler, name, source, "-O2") for source in sources),
        _compiled(compiler, name, text, "-O1"),
    ]
    target = text.with_suffix(".so")
    with _locked(target):
        if not target.exists():
            _call([compiler, "-shared", *map(str, objects), "-o", str(target), "-lpthread", "-lm"])
    return ctypes.CDLL(str(target))


def _compiled(compiler: str, name: str, source: Path, optimised: str) -> Path:
    """The object of one file, which libraries share. Cases are many, and take a third less time to compile with -O1."""
    target = _place(repr((name, source)), ".o")
    flags = [*INSTRUCTION_SETS[name], optimised, "-fPIC", "-c", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
    with _locked(target):
        if not target.exists():
            places = [f"-I{folder}" for folder in (KERNELS / "native", KERNELS / "linear" / "native", source.parent)]
            _call([compiler, *flags, *places, str(source), "-o", str(target)])
    return target


def _place(key: str, suffix: str) -> Path:
    (folder,) = _FOLDERS
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}{suffix}"


@contextlib.contextmanager
def _locked(target: Path) -> Generator[None, None, None]:
    """Alone with the making of a file."""
    with target.with_suffix(f"{target.suffix}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _call(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"


def pointer(array: NDArray[np.generic] | None) -> ctypes.c_void_p:
    """Where the elements of a contiguous array are; NULL for None."""
    if array is None:
        return ctypes.c_void_p(None)
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)
