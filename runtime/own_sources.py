"""llmc's own sources and specs on the disk: by what they are known, so that what was made of them can be kept.

They are known by their inodes, sizes and times, which tell one state from the next only where some time has passed.
"""

from __future__ import annotations

import hashlib
import os
import time
from functools import cache
from pathlib import Path

from . import user_cache

_IMPORTED = time.time()
_SUFFIXES = (".py", ".c", ".h", ".yaml", ".json")
_APART = ("tests", "tools", "__pycache__")
"""Folders of which no model is made: the command line is above, and imports the rest."""
PACKAGE = Path(__file__).parent.parent


class Unsettled(Exception):
    """Something changed too recently to be known by its times."""


def sources_state() -> str:
    """Of llmc's sources. Raises Unsettled where this process may run others than those on the disk."""
    state, changed = _sources()
    if changed > min(_IMPORTED, _process_started()) - user_cache.SETTLED_SECONDS:
        raise Unsettled
    return state


@cache
def _sources() -> tuple[str, float]:
    """The state of all that models are made by, and when the last of it changed; once a process."""
    found: list[tuple[str, int, int, int, int]] = []
    folders = [os.fspath(PACKAGE)]
    for folder in folders:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name.endswith(_SUFFIXES):
                    now = entry.stat()
                    found.append((entry.path, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns))
                elif "." not in name and name not in _APART and entry.is_dir():
                    folders.append(entry.path)
    found.sort()
    changed = max(max(mtime, ctime) for _, _, _, mtime, ctime in found)
    return hashlib.sha256(repr(found).encode("utf-8", "surrogateescape")).hexdigest(), changed / 1e9


@cache
def _process_started() -> float:
    """When this process began, on the clock; now where the system does not say."""
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return time.time()
    return time.time() - age
