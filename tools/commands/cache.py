"""`llmc cache`: the user's folder of compiled code, packed weights and loaded models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click

from ...runtime.cache_limit import limit
from ...runtime.user_cache import cache_folder
from ..options import json_option
from ..terminal import bytes_text, table, write_json


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    """Every file below, links not followed, with its size."""
    for root, _, names in os.walk(folder):
        for name in sorted(names):
            path = Path(root, name)
            with suppress(OSError):
                yield path, path.lstat().st_size


@click.group("cache")
def command() -> None:
    """List or clear the folder where llmc keeps compiled code, packed weights and models as they were loaded."""


@command.command("ls")
@json_option
def ls(as_json: bool) -> None:
    """The files in the cache, with their sizes, and what it may hold: `LLMC_CACHE_GIB`, else 64."""
    folder, most = cache_folder(), limit()
    found = sorted(_files(folder))
    total = sum(size for _, size in found)
    if as_json:
        files = [{"path": path.relative_to(folder).as_posix(), "bytes": size} for path, size in found]
        write_json({"folder": str(folder), "bytes": total, "limit": most, "files": files})
        return
    if found:
        table(["file", ">size"], [(path.relative_to(folder).as_posix(), bytes_text(size)) for path, size in found])
    held = bytes_text(total) if most is None else f"{bytes_text(total)} of at most {bytes_text(most)}"
    print(f"{folder}: {len(found)} files, {held}")


@command.command("clear")
@json_option
def clear(as_json: bool) -> None:
    """Remove every file in the cache; what is needed is compiled and packed again."""
    folder = cache_folder()
    found = list(_files(folder))
    removed = [size for path, size in found if _removed(path)]
    for root, names, _ in os.walk(folder, topdown=False):
        for name in names:
            with suppress(OSError):
                Path(root, name).rmdir()
    if as_json:
        write_json({"folder": str(folder), "removed": len(removed), "bytes": sum(removed)})
        return
    print(f"{folder}: removed {len(removed)} files, {bytes_text(sum(removed))}")


def _removed(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True
