"""The user's cache keeps to a size: of compiled code, packed weights and kept models, what nobody has used for longest
makes room.

An entry is all files of one name in its folder, and the newest of their times says when it was last used: `used` sets
that of one. What was used within the hour stays, whatever the size, so that builds at the same time do not take from
each other what they have just made. An entry is removed under its lock, under which `used` is noted too.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..specs.diagnostics import fail
from .user_cache import cache_folder, locked

FOLDERS = ("objects", "packed", "models")
VARIABLE = "LLMC_CACHE_GIB"
DEFAULT_GIB = 64
RECENT_SECONDS = 3600.0


@dataclass(slots=True, kw_only=True)
class _Entry:
    """What one name stands for: `K.so`, `K.so.sha256` and `K.so.lock`, or a folder `K` and `K.lock`."""

    folder: Path
    name: str
    paths: list[Path] = field(default_factory=list[Path])
    bytes: int = 0
    last_used: float = 0.0

    @property
    def is_recent(self) -> bool:
        return time.time() - self.last_used < RECENT_SECONDS

    def add(self, path: Path) -> None:
        """Count a file, or all that a folder holds."""
        self.paths.append(path)
        for file in (path, *path.iterdir()) if path.is_dir() and not path.is_symlink() else (path,):
            found = file.lstat()
            self.bytes += found.st_size if stat.S_ISREG(found.st_mode) else 0
            if file.suffix != ".lock":
                self.last_used = max(self.last_used, found.st_mtime)


def limit() -> int | None:
    """Bytes that the cache may hold, by `$LLMC_CACHE_GIB`; None where that is 0. Raises E0904 for what is no number."""
    text = os.environ.get(VARIABLE, "").strip() or str(DEFAULT_GIB)
    try:
        gib = float(text)
    except ValueError:
        gib = -1.0
    if not 0 <= gib < 2**30:
        raise fail("E0904", f"{VARIABLE} is {text!r}", help="a number of GiB, or 0 for a cache without a limit")
    return int(gib * 2**30) or None


def used(mark: Path, lock: Path | None = None) -> None:
    """Note that an entry is used, before it is looked at; `mark` is that file of it whose time says so. Nothing happens
    where there is none, or the disk cannot be written."""
    with suppress(OSError), nullcontext() if lock is None else locked(lock):
        os.utime(mark)


def make_room() -> None:
    """Remove entries until the cache is within its limit, after one was added. Raises as `limit`."""
    most = limit()
    if most is None:
        return
    found = [entry for folder in FOLDERS for entry in _entries(cache_folder() / folder)]
    held = sum(entry.bytes for entry in found)
    for entry in sorted(found, key=lambda entry: entry.last_used):
        if held <= most or entry.is_recent:
            return
        if _remove(entry):
            held -= entry.bytes


def _entries(folder: Path, only: str | None = None) -> Iterator[_Entry]:
    """All entries of a folder, or that of one name; what vanishes meanwhile is passed over."""
    found: dict[str, _Entry] = {}
    with suppress(OSError):
        for path in folder.iterdir():
            name = path.name.lstrip(".").partition(".")[0]
            if only in (None, name):
                with suppress(OSError):
                    found.setdefault(name, _Entry(folder=folder, name=name)).add(path)
    return iter(found.values())


def _remove(entry: _Entry) -> bool:
    """Whether the entry is gone; not where it is being made, or was used a moment ago."""
    lock = next((path for path in entry.paths if path.suffix == ".lock"), None)
    try:
        with nullcontext() if lock is None else locked(lock, waits=False):
            for now in _entries(entry.folder, entry.name):
                if now.is_recent:
                    return False
                for path in sorted(now.paths, key=lambda path: path.suffix == ".lock"):  # the lock last
                    _discard(path)
    except OSError:
        return False
    return True


def _discard(path: Path) -> None:
    """A file, or a folder, which is never there in part."""
    if path.is_dir() and not path.is_symlink():
        gone = path.with_suffix(".gone")
        if path != gone:
            shutil.rmtree(gone, ignore_errors=True)
            path.replace(gone)
        shutil.rmtree(gone, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
