"""The user's cache folder: where it is, locks of its entries, and what is known of files that have not changed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

SETTLED_SECONDS = 2.0
"""A file that changed more recently may change again without its times saying so."""


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/llmc`, `~/.cache/llmc` where that is not set."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home and Path(home).is_absolute() else Path.home() / ".cache") / "llmc"


@contextmanager
def locked(path: Path, *, waits: bool = True) -> Generator[None, None, None]:
    """Hold the lock of one entry; it is free again when the process ends, however it ends.

    Raises OSError where the file cannot be made, and, unless this waits, where another holds the lock.
    """
    descriptor = _lock(path, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(path: Path, how: int) -> int:
    """The descriptor of the locked file that is at `path`: another one is, where an entry was removed with its lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, how)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def identity(files: Sequence[Path]) -> str | None:
    """A hash that is another one when a file has changed: of where they lie, of their inodes, sizes and times. None
    where one is missing or has only just been written."""
    parts: list[object] = []
    for path in sorted(files):
        try:
            found = path.stat()
        except OSError:
            return None
        if abs(time.time() - max(found.st_mtime, found.st_ctime)) < SETTLED_SECONDS:
            return None
        parts += [os.fspath(path.resolve()), found.st_dev, found.st_ino]
        parts += [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:40]


def is_noted(what: str, key: str) -> bool:
    """Whether `note` was called with these."""
    return (cache_folder() / "known" / f"{key}.{what}").is_file()


def known(what: str, key: str | None, find: Callable[[], str]) -> str:
    """What `find` gives, a short text that `key` decides about: kept from an earlier process, where there is a key
    and it was not empty."""
    if key is None:
        return find()
    path = cache_folder() / "known" / f"{key}.{what}"
    with suppress(OSError, ValueError):
        text = path.read_text(encoding="utf-8")
        if text.endswith("\n"):
            return text[:-1]
    found = find()
    if found:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.write_text(f"{found}\n", encoding="utf-8")
    return found


def note(what: str, key: str) -> None:
    """Remember that `what` holds for `key`, where the disk allows it."""
    with suppress(OSError):
        folder = cache_folder() / "known"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / f"{key}.{what}").touch(0o600)
