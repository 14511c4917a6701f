"""Reading a text file that a stranger may have named: a regular file of at most 1 MiB of UTF-8, or a diagnostic."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .diagnostics import fail, quoted
from .source import Span

MAX_BYTES = 1 << 20
TOO_LARGE = "a spec is text of some hundred lines: name the YAML file, not a file of weights"


def read_text_file(path: Path, display: str) -> str:
    """The text of a regular UTF-8 file of at most 1 MiB; a FIFO or a device is never opened for reading."""
    name = quoted(display)
    try:
        _require_regular(os.stat(path), name)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        with open(descriptor, "rb") as file:
            _require_regular(os.fstat(file.fileno()), name)
            data = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise fail("E0101", f"there is no file {name}", help="check the spelling and the folder") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise fail("E0103", f"{name} cannot be read: {reason}") from None
    if len(data) > MAX_BYTES:
        raise fail("E0104", f"{name} is larger than 1 MiB", help=TOO_LARGE)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        column = len(before) - before.rfind("\n")
        span = Span(file=display, line=before.count("\n") + 1, column=column, end_column=column + 1)
        raise fail("E0105", "this byte is not UTF-8", span, help="save the file as UTF-8") from None


def _require_regular(status: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a FIFO, socket or device"
        raise fail("E0102", f"{name} is {kind}, not a file", help="name a YAML file")
    if status.st_size > MAX_BYTES:
        raise fail("E0104", f"{name} is larger than 1 MiB", help=TOO_LARGE)
