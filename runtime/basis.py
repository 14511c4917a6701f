"""What a remembered model rests on (files, folders, llmc's own sources, switches), and whether all of it is still so.

A file is known by its inode, size and times, so nothing of it is read. Times tell one state from the next only where
some time has passed: what changed shortly before it was used is not rested on. Files of llmc's own cache are written
once and whole, each with an inode of its own, so their age does not matter.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from . import user_cache
from .own_sources import Unsettled, sources_state

SWITCHES = ("LLMC_PASSES", "LLMC_KERNELS", "LLMC_NATIVE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """States by path. A file that must not appear has the state `""`."""

    package: str
    files: Mapping[str, str]
    folders: Mapping[str, str]

    def is_same(self) -> bool:
        """Whether nothing has changed."""
        try:
            return (
                self.package == package_state()
                and all(_file(path)[0] == state for path, state in self.files.items())
                and all(_folder(path)[0] == state for path, state in self.folders.items())
            )
        except (OSError, Unsettled):
            return False


def basis(files: Iterable[Path], folders: Iterable[Path], *, started: float, cached: Iterable[Path] = ()) -> Basis:
    """Of what was read after `started`, a time of the clock, and of files of llmc's own cache.

    Raises Unsettled or OSError where it is no good.
    """
    found = {os.fspath(path.absolute()): _file(path) for path in files}
    listed = {os.fspath(path.absolute()): _folder(path) for path in folders}
    changed = max((when for _, when in (*found.values(), *listed.values())), default=0.0)
    if started - changed < user_cache.SETTLED_SECONDS:
        raise Unsettled
    found |= {os.fspath(path.absolute()): _file(path) for path in cached}
    return Basis(
        package=package_state(),
        files={path: state for path, (state, _) in found.items()},
        folders={path: state for path, (state, _) in listed.items()},
    )


def package_state() -> str:
    """Of llmc's sources, of the version of torch and of the switches. Raises as `sources_state`."""
    return repr((sources_state(), str(torch.__version__), *(os.environ.get(name, "1") for name in SWITCHES)))


def _file(path: str | Path) -> tuple[str, float]:
    """The state, and when it last changed."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return "", 0.0
    return _state(found), max(found.st_mtime, found.st_ctime)


def _state(found: os.stat_result) -> str:
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"


def _folder(path: str | Path) -> tuple[str, float]:
    """The state of the files of a folder, and when one of them last changed."""
    parts: list[str] = []
    changed = 0.0
    with os.scandir(path) as entries:
        for entry in entries:
            parts.append(entry.name)
            if entry.is_file():
                found = entry.stat()
                parts[-1] += f"\0{_state(found)}"
                changed = max(changed, found.st_mtime, found.st_ctime)
    return hashlib.sha256("\0".join(sorted(parts)).encode("utf-8", "surrogateescape")).hexdigest(), changed
