"""Models are compiled once a machine: the user's cache keeps what running them takes, by what `load` was asked for.

An entry is one file: a hash of what follows, what it rests on, and the model, as JSON. It is written whole. One that is
damaged, that somebody else could write, or that rests on what has changed is as good as none, and is written anew.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..compiler.program import Program
from .basis import Basis
from .cache_limit import make_room, used
from .locate import Request
from .model import LanguageModel
from .native.toolchain import NoCompiler
from .own_sources import Unsettled
from .pack_cache import note_use
from .recall import recalled_model
from .records import from_json, to_json
from .remembered import KINDS, Remembered
from .user_cache import cache_folder

_BASIS = {"Basis": Basis}


def recall(request: Request, compile: Callable[[Basis, str], Program]) -> LanguageModel | None:
    """The model of an absolute request, as it was kept; None where it has to be made.

    compile: gives its Program, of a dtype, if it still rests on the same.
    """
    try:
        used(_path(request))
        said, kept = _read(_path(request))
        rests_on = from_json(said, _BASIS)
        if not isinstance(rests_on, Basis):
            return None
        for file in rests_on.files:
            note_use(Path(file))
        if not rests_on.is_same():
            return None
        found = from_json(kept, KINDS)
        if not isinstance(found, Remembered):
            return None
        dtype = found.dtype
        return recalled_model(found, lambda: compile(rests_on, dtype))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, Unsettled, NoCompiler):
        return None


def keep(request: Request, rests_on: Basis, found: Remembered) -> None:
    """Write the entry of an absolute request, where the disk allows it."""
    body = f"{to_json(rests_on, _BASIS)}\n{to_json(found, KINDS)}".encode()
    path = _path(request)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(dir=path.parent)
        try:
            with open(descriptor, "wb") as file:
                file.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
            os.replace(name, path)
        except OSError:
            os.unlink(name)
    make_room()


def _path(request: Request) -> Path:
    return cache_folder() / "models" / f"{request.key()}.json"


def _read(path: Path) -> tuple[str, str]:
    """The two parts of an entry. Raises OSError where there is none, ValueError where it is not to be trusted."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise ValueError("somebody else could have written it")
        digest, _, body = file.read().partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError("its hash is another one")
    said, _, kept = body.decode().partition("\n")
    return said, kept
