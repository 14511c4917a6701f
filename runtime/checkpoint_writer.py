"""Saving tensors as a safetensors checkpoint, whole or sharded as a layout says; every file appears atomically.

Tensors are streamed one after the other and may share memory (row views of fused storage, tied embeddings).
A kill between two shards of a sharded save leaves no index, so that a mixture of old and new is never loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..specs.diagnostics import did_you_mean, fail
from .atomic import atomic_file, write_atomically
from .checkpoint import INDEX_FILE, SINGLE_FILE, TORCH_DTYPES
from .containment import require_safe_name
from .mapped_file import HUGE_PAGE
from .safetensors_header import DTYPE_BYTES
from .strict_json import shown

STORED_NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in TORCH_DTYPES.items()}


def write_checkpoint(
    folder: Path,
    tensors: Mapping[str, Tensor],
    layout: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write `tensors` into `folder` (made where missing). `layout` maps each tensor to its file; None: one file.

    Raises E0755 where layout and tensors disagree, E0757 where the disk refuses, E0758 for a dtype without a name.
    """
    layout = dict.fromkeys(tensors, SINGLE_FILE) if layout is None else layout
    _require_same_names(tensors, layout)
    for name, tensor in tensors.items():
        if tensor.dtype not in STORED_NAMES or tensor.layout != torch.strided or tensor.is_meta:
            kind = "meta" if tensor.is_meta else f"{tensor.layout} {tensor.dtype}"
            raise fail("E0758", f"tensor {shown(name)} is {kind}, which safetensors cannot hold")
    files = sorted(set(layout.values())) or [SINGLE_FILE]
    for file in files:
        require_safe_name(file)
        if "/" in file or not file.endswith(".safetensors"):
            raise fail("E0750", f"{shown(file)} in the layout is not the name of a .safetensors file")
    if SINGLE_FILE in files and len(files) > 1:
        raise fail("E0755", f"the layout has {SINGLE_FILE} beside other files: it would be read alone")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise fail("E0757", f"cannot make the folder {folder}: {error.strerror}") from error
    is_sharded = files != [SINGLE_FILE]
    if is_sharded:
        _remove(folder / INDEX_FILE)
    header_metadata = {"format": "pt"} if metadata is None else dict(metadata)
    for file in files:
        part = {name: tensors[name] for name in sorted(tensors) if layout[name] == file}
        with atomic_file(folder / file) as stream:
            _write_safetensors(stream, part, header_metadata)
    if is_sharded:
        total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": {name: layout[name] for name in sorted(layout)}}
        write_atomically(folder / INDEX_FILE, json.dumps(index, indent=2, ensure_ascii=False) + "\n")
        _remove(folder / SINGLE_FILE)
    else:
        _remove(folder / INDEX_FILE)


def _require_same_names(tensors: Mapping[str, Tensor], layout: Mapping[str, str]) -> None:
    for name in tensors:
        if name not in layout:
            raise fail("E0755", f"the layout has no file for tensor {shown(name)}", help=did_you_mean(name, layout))
    for name in layout:
        if name not in tensors:
            raise fail("E0755", f"the layout lists tensor {shown(name)}, which is not saved")


def _write_safetensors(stream: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Widest dtypes first, then by name (as the library orders them), so that every tensor is aligned; the data begins
    on a cache line."""
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    for name in order:
        tensor = tensors[name]
        dtype = STORED_NAMES[tensor.dtype]
        end = position + tensor.numel() * DTYPE_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * ((-8 - len(text)) % 64)
    for block in in_blocks(_pieces(len(text).to_bytes(8, "little") + text, map(tensors.__getitem__, order))):
        stream.write(block)


def _pieces(header: bytes, tensors: Iterable[Tensor]) -> Iterator[memoryview]:
    yield memoryview(header)
    for tensor in tensors:
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        if flat.numel():
            yield flat.view(torch.uint8).numpy().data


def in_blocks(pieces: Iterable[memoryview]) -> Iterator[memoryview]:
    """The same bytes in whole blocks of HUGE_PAGE, and what is left: a file that is written so is held in huge pages by
    the system's file cache, where that has them, and can be mapped as it was written."""
    block, held = memoryview(bytearray(HUGE_PAGE)), 0
    for piece in pieces:
        while piece:
            if held == 0 and len(piece) >= HUGE_PAGE:
                whole = len(piece) // HUGE_PAGE * HUGE_PAGE
                yield piece[:whole]
                piece = piece[whole:]
                continue
            taken = piece[: HUGE_PAGE - held]
            block[held : held + len(taken)] = taken
            held, piece = held + len(taken), piece[len(taken) :]
            if held == HUGE_PAGE:
                yield block
                held = 0
    if held:
        yield block[:held]


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
