"""Packed weights are made once a machine: the user's cache keeps them, and later loads map them from there.

An entry is a folder with one safetensors file, named by all that decides about its bytes: the checkpoint's files, how
parameters are made of them, the formats and the code that packs. It is written whole, under a lock, and its hash is
compared when it is first read; after that its size and times say whether it is still the same file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from torch import Tensor

from ..compiler.native.formats import Quantize, choose_formats, rules_of
from ..specs.diagnostics import LlmcError
from .atomic import write_atomically
from .cache_limit import make_room, used
from .checkpoint import SINGLE_FILE, Checkpoint, open_checkpoint
from .checkpoint_writer import write_checkpoint
from .native.objects import kernel_sources_hash
from .user_cache import cache_folder, identity, is_noted, locked, note
from .weights import recipes

if TYPE_CHECKING:
    from .model import LanguageModel

HASH = "sha256"
NOTHING: Mapping[str, Tensor] = MappingProxyType({})


def note_use(file: Path) -> None:
    """Say that a file is used, if it belongs to an entry of this cache: before it is mapped by its path alone."""
    entry = file.parent
    if entry.parent == (cache_folder() / "packed").resolve():
        used(entry / HASH, entry.with_name(f"{entry.name}.lock"))


def pack_cached(model: LanguageModel, quantize: Quantize, checkpoint: Checkpoint) -> Path | None:
    """As `model.pack` on a CPU, with the matrices of the cache, which is filled where it lacks them. Where it cannot be
    used, and where the checkpoint has only just been written, they are packed for this process alone.

    Gives the folder that holds the matrices now, where one does.
    """
    key = _key(model, quantize, checkpoint)
    if key is None:
        model.pack(quantize)
        return None
    folder = cache_folder() / "packed"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(folder / f"{key}.lock"):
            used(folder / key / HASH)
            held = _read(folder / key)
            model.pack(quantize, held)
            is_kept = bool(held) or _write(folder / key, model.packed_executor().binding.packed)
        make_room()
        return folder / key if is_kept else None
    except OSError as error:
        warnings.warn(f"the packed weights are not kept: {folder}: {error.strerror}", stacklevel=2)
        if model.quantize is None:
            model.pack(quantize)
        return None


def _key(model: LanguageModel, quantize: Quantize, checkpoint: Checkpoint) -> str | None:
    """Of everything that decides about the packed bytes and their names; None where the files may still change."""
    files = identity(checkpoint.files)
    if files is None:
        return None
    program = model.program
    made = [(r.path, r.sources, r.rule) for r in recipes(program.weights, checkpoint.entries).values()]
    operands = [
        (call.binding.prefix, name, formula)
        for call in program.module.calls
        for name, formula in program.module.definitions[call.definition].parameters.items()
    ]
    formats = choose_formats(program.module, quantize, rules_of(program.spec))
    chosen = sorted((name, sorted(found.items())) for name, found in formats.items())
    parts = (version("llmc"), kernel_sources_hash(), files, program.target.dtype, made, operands, chosen)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:40]


def _read(entry: Path) -> Mapping[str, Tensor]:
    """What an entry holds, mapped; nothing where there is none, or a damaged one, which is set aside."""
    path = entry / SINGLE_FILE
    if not path.is_file():
        return NOTHING
    try:
        _require_whole(entry)
        with open_checkpoint(entry) as checkpoint:
            return {name: checkpoint.read(name) for name in checkpoint.entries}
    except (LlmcError, OSError, ValueError) as error:
        bad = entry.with_name(entry.name + ".bad")
        shutil.rmtree(bad, ignore_errors=True)
        entry.replace(bad)
        warnings.warn(f"the cache entry {entry} was damaged; it was set aside ({error})", stacklevel=2)
        return NOTHING


def _require_whole(entry: Path) -> None:
    """Raises ValueError where the file is not the one that was written."""
    path = entry / SINGLE_FILE
    key = identity([path])
    if key is not None and is_noted("whole", key):
        return
    expected = (entry / HASH).read_text(encoding="ascii").strip()
    if _hash(path) != expected:
        raise ValueError("its hash is another one")
    if key is not None:
        note("whole", key)


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(entry: Path, packed: Mapping[str, Tensor]) -> bool:
    """Make the entry; False where the disk is full, which is said and does not matter."""
    working = Path(tempfile.mkdtemp(dir=entry.parent))
    try:
        write_checkpoint(working, packed)
        write_atomically(working / HASH, _hash(working / SINGLE_FILE))
        os.chmod(working / SINGLE_FILE, 0o600)
        working.replace(entry)
    except LlmcError as error:
        warnings.warn(f"the packed weights are not kept: {error.diagnostics[0].message}", stacklevel=2)
        return False
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return True
