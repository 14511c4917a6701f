"""Files that are either the old one or the new one, never a part: write beside, flush to the disk, rename.

A rename replaces the directory entry, so a link at the destination is replaced and never written through.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..specs.diagnostics import fail


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `path`, whose folder exists. Raises E0757 with the old file left as it was."""
    payload = data.encode("utf-8") if isinstance(data, str) else data
    with atomic_file(path) as file:
        file.write(payload)


@contextmanager
def atomic_file(path: Path) -> Generator[BinaryIO, None, None]:
    """A file to write that takes the place of `path` when the block ends, and vanishes when the block raises."""
    partial = path.with_name(f".{path.name[:100]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with _create(partial) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _keep_mode(path, partial)
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        _discard(partial)
        reason = error.strerror or str(error)
        raise fail(
            "E0757",
            f"cannot write {path}: {reason}",
            help="check that the folder exists, is writable and has space; the old file was left as it was",
        ) from error
    except BaseException:
        _discard(partial)
        raise


def _create(path: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, 0o666), "wb")


def _keep_mode(old: Path, new: Path) -> None:
    """Give the new file the permissions of the regular file that it replaces."""
    with suppress(FileNotFoundError):
        info = os.lstat(old)
        if stat.S_ISREG(info.st_mode):
            os.chmod(new, stat.S_IMODE(info.st_mode) & 0o777)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; some file systems refuse to sync a folder, which loses nothing else."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _discard(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
