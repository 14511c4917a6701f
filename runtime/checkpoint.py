"""A folder of safetensors files opened for reading: validated names, lazily mapped tensors.

`model.safetensors` wins over `model.safetensors.index.json`, as in transformers. Pickle is refused, never opened.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import torch
from torch import Tensor

from ..specs.diagnostics import Diagnostic, LlmcError, did_you_mean, fail
from .containment import find_inside, inside, read_json_object, require_folder
from .mapped_file import MappedFile, Stored
from .safetensors_header import SafetensorsHeader, read_header
from .strict_json import is_object, shown

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_INDEX_BYTES = 64 * 1024 * 1024
MAX_REPORTED = 20
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

TORCH_DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U64": torch.uint64,
        "U32": torch.uint32,
        "U16": torch.uint16,
        "U8": torch.uint8,
        "BOOL": torch.bool,
        "C64": torch.complex64,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
        "F8_E8M0": torch.float8_e8m0fnu,
        "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
        "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tensor of a checkpoint, known without reading its data."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path
    file_name: str
    """As the folder calls the file, which may be a link into a cache."""
    begin: int
    """Its first byte in the file."""


class Checkpoint:
    """The tensors of a folder by name. Tensors that were read stay valid after `close`."""

    def __init__(self, *, folder: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> None:
        self.folder = folder
        self.entries = MappingProxyType(dict(entries))
        self.metadata = MappingProxyType(dict(metadata))
        self._open: dict[Path, MappedFile] = {}
        self._is_closed = False

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the tensors."""
        return tuple(sorted({entry.file for entry in self.entries.values()}))

    @property
    def layout(self) -> Mapping[str, str]:
        """Tensor name to file name, in the form that `write_checkpoint` takes."""
        return MappingProxyType({name: entry.file_name for name, entry in self.entries.items()})

    def read(self, name: str) -> Tensor:
        """The tensor, mapped from the file without a copy (private pages: writing to it never reaches the file)."""
        if self._is_closed:
            raise RuntimeError(f"the checkpoint {self.folder} is closed")
        entry = self.entries.get(name)
        if entry is None:
            raise fail("E0751", f"{self.folder} has no tensor {shown(name)}", help=did_you_mean(name, self.entries))
        stored = Stored(file=0, begin=entry.begin, shape=entry.shape, dtype=str(entry.dtype).removeprefix("torch."))
        try:
            return self._mapped(entry).tensor(stored)
        except (OSError, ValueError) as error:
            raise fail("E0753", f"{entry.file}: tensor {shown(name)} cannot be read: {error}") from error

    def _mapped(self, entry: Entry) -> MappedFile:
        """The file of a tensor. Raises E0753 where it is no longer the one that was opened."""
        if entry.file not in self._open:
            mapped, expected = (
                MappedFile(entry.file),
                {e.name: e for e in self.entries.values() if e.file == entry.file},
            )
            if _entries(entry.file, entry.file_name, read_header(entry.file)) != expected:
                raise fail("E0753", f"{entry.file} changed while it was open: its tensors are others")
            self._open[entry.file] = mapped
        return self._open[entry.file]

    def forget_pages(self) -> None:
        """Let go of what the mapped files take of this process's memory; it is read again where it is needed. Only
        before anything was written to a tensor that was read."""
        if sys.platform != "linux":
            return
        library = ctypes.CDLL(None)
        library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        names = {str(path.resolve()) for path in self.files}
        with suppress(OSError):
            for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
                span, _, _, _, _, *name = line.split(maxsplit=5)
                if name and name[0] in names:
                    first, last = (int(address, 16) for address in span.split("-"))
                    library.madvise(first, last - first, mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Give back the file handles; a second call does nothing."""
        self._is_closed = True
        self._open.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open the checkpoint of `folder`: every header is checked, no data is read.

    Raises `LlmcError`: E0750 (a name leaves the folder), E0751 (missing), E0752 (index), E0753 (a damaged file),
    E0754 (only pickle files), E0755 (index and shards disagree).
    """
    root = require_folder(folder)
    single = find_inside(root, SINGLE_FILE)
    if single is not None:
        header = read_header(single)
        return Checkpoint(folder=root, entries=_entries(single, SINGLE_FILE, header), metadata=header.metadata)
    index = find_inside(root, INDEX_FILE)
    if index is None:
        raise _no_checkpoint(root)
    weight_map = _weight_map(index)
    headers = _shard_headers(root, index, weight_map)
    _require_agreement(index, weight_map, headers)
    entries: dict[str, Entry] = {}
    metadata: dict[str, str] = {}
    for file, (path, header) in headers.items():
        entries.update(_entries(path, file, header))
        metadata.update(header.metadata)
    return Checkpoint(folder=root, entries={name: entries[name] for name in weight_map}, metadata=metadata)


def _entries(path: Path, file: str, header: SafetensorsHeader) -> dict[str, Entry]:
    return {
        tensor.name: Entry(
            name=tensor.name,
            shape=tensor.shape,
            dtype=TORCH_DTYPES[tensor.dtype],
            file=path,
            file_name=file,
            begin=header.data_start + tensor.begin,
        )
        for tensor in header.tensors
    }


def _no_checkpoint(folder: Path) -> LlmcError:
    names = sorted(entry.name for entry in folder.iterdir())
    pickles = [name for name in names if name.lower().endswith(PICKLE_SUFFIXES)]
    safetensors = [name for name in names if name.endswith(".safetensors")]
    if pickles and not safetensors:
        return fail(
            "E0754",
            f"{folder} holds only pickle ({', '.join(map(shown, pickles[:3]))}), which can run code and is refused",
            help="convert them where you trust them: https://huggingface.co/spaces/safetensors/convert",
        )
    found = f"; it holds {', '.join(map(shown, safetensors[:5]))}" if safetensors else ""
    return fail(
        "E0751",
        f"{folder} holds neither {SINGLE_FILE} nor {INDEX_FILE}{found}",
        help="a single file is named model.safetensors; shards need their model.safetensors.index.json",
    )


def _weight_map(index: Path) -> Mapping[str, str]:
    value = read_json_object(index, MAX_INDEX_BYTES).get("weight_map")
    if not is_object(value) or not value:
        raise fail("E0752", f"{index}: expected a weight_map from tensor names to file names")
    weight_map: dict[str, str] = {}
    for name, file in value.items():
        if not isinstance(file, str) or not file.endswith(".safetensors") or "/" in file:
            raise fail(
                "E0750",
                f"{index}: tensor {shown(name)} is in {shown(str(file))}; expected the name of a .safetensors file",
                help="shards lie in the folder of the index",
            )
        weight_map[name] = file
    return weight_map


def _shard_headers(root: Path, index: Path, weight_map: Mapping[str, str]) -> dict[str, tuple[Path, SafetensorsHeader]]:
    headers: dict[str, tuple[Path, SafetensorsHeader]] = {}
    problems: list[Diagnostic] = []
    for file in dict.fromkeys(weight_map.values()):
        try:
            path = inside(root, file)
            headers[file] = (path, read_header(path))
        except LlmcError as error:
            problems.extend(error.diagnostics)
    if problems:
        raise LlmcError(problems[:MAX_REPORTED])
    if len({path for path, _ in headers.values()}) != len(headers):
        raise fail("E0755", f"{index}: two shard names are links to the same file")
    return headers


def _require_agreement(
    index: Path, weight_map: Mapping[str, str], headers: Mapping[str, tuple[Path, SafetensorsHeader]]
) -> None:
    """Index and shards name the same tensors in the same files."""
    found = {file: {tensor.name for tensor in header.tensors} for file, (_, header) in headers.items()}
    messages = [
        f"{index}: tensor {shown(name)} should be in {shown(file)}, which does not hold it"
        for name, file in weight_map.items()
        if name not in found[file]
    ]
    for file, names in found.items():
        for name in sorted(names):
            listed = weight_map.get(name)
            if listed != file:
                place = "does not list it" if listed is None else f"says {shown(listed)}"
                messages.append(f"{index}: {shown(file)} holds tensor {shown(name)}; the index {place}")
    if messages:
        help = "the index and its shards are of different downloads: download the folder again"
        raise LlmcError([Diagnostic(code="E0755", message=message, help=help) for message in messages[:MAX_REPORTED]])
