"""The user's cache of compiled code, keyed by everything that matters to it: text, headers, compiler, processor.

An entry is a file and the hash of its bytes beside it. Entries are written whole, checked when read, and built under a
lock, so that simultaneous builds compile once; one that does not match its hash is set aside and built again.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

from ...kernels.native.kernel import KERNELS
from ...specs.diagnostics import LlmcError
from ..atomic import write_atomically
from ..cache_limit import make_room, used
from ..own_sources import Unsettled, sources_state
from ..user_cache import cache_folder, known, locked
from .toolchain import FLAGS, Compiler, NoCompiler, compiler, processor

_INCLUDE = (f"-I{KERNELS}", f"-I{KERNELS / 'native'}")


def shared_library(text: str, sources: Sequence[str]) -> Path:
    """The program's text and the kernels it calls, compiled and linked. Raises NoCompiler where that cannot be done."""
    chosen = compiler()
    key = _key(chosen, "library", without_comments(text), *(_kernel_name(chosen, source) for source in sources))

    def build(folder: Path, target: Path) -> None:
        (folder / "program.c").write_text(text, encoding="utf-8")
        parts = [str(_kernel_object(chosen, source)) for source in sources]
        chosen.run(["-shared", *_INCLUDE, "program.c", *parts, "-o", str(target), "-lm"], folder)

    return _entry(f"{key}.so", build)


def without_comments(text: str) -> str:
    """C without comments and indentation, so that a path in one does not make another key."""
    lines = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL).splitlines()
    return "\n".join(line.strip() for line in lines if line.strip())


def _kernel_name(chosen: Compiler, source: str) -> str:
    return f"{_key(chosen, 'kernel', source)}.o"


def _kernel_object(chosen: Compiler, source: str) -> Path:
    def build(folder: Path, target: Path) -> None:
        _say_that_it_takes_long()
        chosen.run(["-O3", "-c", *_INCLUDE, str(KERNELS / source), "-o", str(target)], folder)

    return _entry(_kernel_name(chosen, source), build)


@cache
def _say_that_it_takes_long() -> None:
    print("note: compiling kernels for this processor; the next run finds them made", file=sys.stderr, flush=True)


@cache
def _package_version() -> str:
    return known("version", _sources(), partial(version, "llmc"))


@cache
def kernel_sources_hash() -> str:
    """One hash over all kernels in C: their headers include one another."""
    return known("kernels", _sources(), _hash_kernels)


def _sources() -> str | None:
    try:
        return sources_state()
    except Unsettled:
        return None


def _hash_kernels() -> str:
    found = hashlib.sha256()
    for path in sorted(KERNELS.rglob("*")):
        if path.suffix in (".c", ".h"):
            found.update(path.relative_to(KERNELS).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def _key(chosen: Compiler, *parts: str) -> str:
    everything = "\0".join((_package_version(), chosen.version, processor(), kernel_sources_hash(), *FLAGS, *parts))
    return hashlib.sha256(everything.encode()).hexdigest()[:40]


def _entry(name: str, build: Callable[[Path, Path], None]) -> Path:
    """The entry, made by `build(working folder, file to write)` where it is not there.

    Raises NoCompiler where it cannot be kept, as on a full disk.
    """
    folder = cache_folder() / "objects"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise NoCompiler(f"the cache folder {folder} cannot be made: {error.strerror}") from error
    path, lock = folder / name, folder / f"{name}.lock"
    used(_hash_path(path), lock)
    if _is_whole(path):
        return path
    try:
        _make(path, lock, build)
    except OSError as error:
        raise NoCompiler(f"{folder} cannot take compiled code: {error.strerror or error}") from error
    except LlmcError as error:
        raise NoCompiler(f"{folder} cannot take compiled code: {error.diagnostics[0].message}") from error
    make_room()
    return path


def _make(path: Path, lock: Path, build: Callable[[Path, Path], None]) -> None:
    """Build the entry, where nobody else has made it since. Raises OSError, or LlmcError E0757, where it cannot lie."""
    folder, name = path.parent, path.name
    with locked(lock):
        if _is_whole(path):
            return
        if path.exists():
            path.replace(path.with_suffix(path.suffix + ".bad"))
            warnings.warn(f"the cache entry {path} was damaged; it was set aside and is built again", stacklevel=2)
        with tempfile.TemporaryDirectory(dir=folder) as working:
            made = Path(working) / name
            build(Path(working), made)
            data = made.read_bytes()
            write_atomically(_hash_path(path), hashlib.sha256(data).hexdigest())
            os.chmod(made, 0o600)
            made.replace(path)


def _hash_path(path: Path) -> Path:
    return path.with_suffix(path.suffix + ".sha256")


def _is_whole(path: Path) -> bool:
    try:
        expected = _hash_path(path).read_text(encoding="ascii").strip()
        return hashlib.sha256(path.read_bytes()).hexdigest() == expected
    except (OSError, ValueError):
        return False
