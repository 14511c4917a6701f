"""Files of a model folder, opened so that nothing outside the folder is ever read.

Names come from untrusted files (an index, a config), so a name is checked as text, then as a path on the disk.
A hard link cannot be told from the file itself (and package managers install with hard links): reading one is allowed,
writing through one is not possible because every writer renames.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from pathlib import Path
from typing import BinaryIO

from ..specs.diagnostics import did_you_mean, fail
from .strict_json import parse_json, shown

MAX_NAME_LENGTH = 1024
_LOOK = "check the spelling and the folder that it lies in"
_SOLIDUS_LOOKALIKES = frozenset("\u2044\u2215\u29f8\u29f5\u2216\ufe68\uff0f\uff3c\u2571\u2572\u29f9")


def inside(folder: Path, name: str) -> Path:
    """The real path of the regular file `name` of `folder`. E0750 where it leaves the folder, E0751 where absent."""
    path = find_inside(folder, name)
    if path is None:
        raise fail("E0751", f"{folder} has no file {shown(name)}", help=did_you_mean(name, _files_of(folder)))
    return path


def find_inside(folder: Path, name: str) -> Path | None:
    """`inside`, with None for a file that is not there."""
    require_safe_name(name)
    root = require_folder(folder)
    try:
        path = (root / name).resolve(strict=True)
        mode = path.stat().st_mode
    except FileNotFoundError:
        if (root / name).is_symlink():
            raise fail("E0750", f"{shown(name)} of {folder} is a link to nothing") from None
        return None
    except (OSError, RuntimeError, ValueError) as error:
        raise fail("E0750", f"{shown(name)} of {folder} cannot be opened: {error}") from error
    if not path.is_relative_to(root) and not _is_hub_blob(root, path):
        raise fail(
            "E0750",
            f"{shown(name)} of {folder} is a link that leaves the folder, to {path}",
            help="copy the folder with its links resolved: cp -rL FOLDER COPY",
        )
    if not stat.S_ISREG(mode):
        raise fail("E0750", f"{shown(name)} of {folder} is not a regular file")
    return path


def _is_hub_blob(root: Path, path: Path) -> bool:
    """The one link that may leave: `models--X/snapshots/R/NAME` of a hub cache, to a file of `models--X/blobs`."""
    model = root.parent.parent
    return root.parent.name == "snapshots" and model.name.startswith("models--") and path.parent == model / "blobs"


def require_folder(folder: Path) -> Path:
    """The real path of an existing folder; E0751 with the nearest name beside it otherwise."""
    try:
        root = folder.resolve(strict=True)
    except FileNotFoundError:
        siblings = [entry.name for entry in folder.parent.iterdir() if entry.is_dir()] if folder.parent.is_dir() else []
        raise fail("E0751", f"there is no folder {folder}", help=did_you_mean(folder.name, siblings) or _LOOK) from None
    except (OSError, RuntimeError, ValueError) as error:
        raise fail("E0751", f"cannot open the folder {shown(str(folder))}: {error}") from error
    if not root.is_dir():
        raise fail("E0751", f"{folder} is a file, not a folder", help=f"name the folder that holds it: {folder.parent}")
    return root


def require_safe_name(name: str) -> None:
    """Refuse (E0750) a name that is not a plain relative path, on this or any other system."""
    reason = _unsafe_reason(name)
    if reason is not None:
        raise fail("E0750", f"unsafe file name {shown(name)}: {reason}", help="names stay inside the model folder")


def _unsafe_reason(name: str) -> str | None:
    if not name or len(name) > MAX_NAME_LENGTH:
        return f"it is empty or longer than {MAX_NAME_LENGTH} characters"
    if any(unicodedata.category(char)[0] == "C" or unicodedata.category(char) in ("Zl", "Zp") for char in name):
        return "it holds a control, invisible or unpaired character"
    if "\\" in name or ":" in name:
        return "it holds a backslash or a colon"
    if _SOLIDUS_LOOKALIKES.intersection(name):
        return "it holds a character that looks like a slash"
    folded = unicodedata.normalize("NFKC", name)
    if any(folded.count(char) != name.count(char) for char in "./\\:"):
        return "it holds a character that stands for a dot or a slash"
    if name.startswith(("/", "~")):
        return "it is absolute"
    for part in name.split("/"):
        if part in ("", ".", ".."):
            return "it has an empty, `.` or `..` part"
        if part.strip(". ") == "" or part != part.strip() or part.endswith("."):
            return "a part begins or ends with a space, or ends with a dot"
        if len(part.encode("utf-8")) > 255:
            return "a part is longer than 255 bytes"
    return None


def open_regular(path: Path) -> BinaryIO:
    """A regular file to read, `path` as `inside` gave it: follows no last link, does not block on a FIFO."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise fail("E0751", f"there is no file {path}", help=did_you_mean(path.name, _files_of(path.parent))) from None
    except (OSError, ValueError) as error:
        raise fail("E0750", f"cannot open {shown(str(path))}: {error}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise fail("E0750", f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """The whole file, refused (E0752) where it is larger than `max_bytes`."""
    with open_regular(path) as file:
        try:
            data = file.read(max_bytes + 1)
        except OSError as error:
            raise fail("E0751", f"cannot read {path}: {error}") from error
    if len(data) > max_bytes:
        raise fail("E0752", f"{path} is larger than {max_bytes} bytes, the most that is read of such a file")
    return data


def read_text(path: Path, max_bytes: int) -> str:
    """The whole file as strict UTF-8."""
    try:
        return read_bytes(path, max_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        raise fail("E0752", f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None


def read_json(path: Path, max_bytes: int) -> object:
    """The JSON value of a file: bounded, strict UTF-8, no duplicate key, no NaN, bounded depth."""
    return parse_json(read_bytes(path, max_bytes), str(path))


def read_json_object(path: Path, max_bytes: int) -> dict[str, object]:
    """`read_json` of a file whose top level is an object."""
    value = read_json(path, max_bytes)
    if not isinstance(value, dict):
        raise fail("E0752", f"{path}: expected a JSON object, found {type(value).__name__}")
    return {str(key): item for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _files_of(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]
    except OSError:
        return []
