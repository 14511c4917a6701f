"""The header of a safetensors file, checked before the data is mapped.

The safetensors library lets duplicate JSON keys through and says only "InvalidOffset"; here each refusal names file,
tensor, what was expected and what was found. Format: 8 bytes of header length (little-endian), the JSON header, the
data.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ..specs.diagnostics import LlmcError, did_you_mean, fail
from .containment import open_regular
from .strict_json import is_int, is_list, is_object, parse_json, shown

MAX_HEADER_BYTES = 100_000_000
MAX_TENSOR_BYTES = 2**63 - 1
MAX_RANK = 64
MAX_NAME_LENGTH = 1024

DTYPE_BYTES: Mapping[str, int] = MappingProxyType(
    {
        "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
        "U8": 1, "BOOL": 1, "C64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """Where one tensor lies: `begin` and `end` are byte offsets into the data section."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetensorsHeader:
    """`data_start` and `data_size` in bytes; tensors in the order of the file's data."""

    tensors: tuple[StoredTensor, ...]
    metadata: Mapping[str, str]
    data_start: int
    data_size: int


def read_header(path: Path) -> SafetensorsHeader:
    """The header of a regular file; E0753 for whatever is wrong in it."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            length = _header_length(path, file.read(8), size)
            data = file.read(length)
    except OSError as error:
        raise fail("E0751", f"cannot read {path}: {error}") from error
    if len(data) != length:
        raise _malformed(path, f"the header should be {length} bytes, the file ends after {len(data)} of them")
    if not data.startswith(b"{"):
        raise _malformed(path, f"the header begins with {data[:1]!r}, not with an opening brace")
    try:
        value = parse_json(data, "the header")
    except LlmcError as error:
        raise _malformed(path, error.diagnostics[0].message) from None
    if not is_object(value):
        raise _malformed(path, "the header is not a JSON object")
    metadata = _metadata(path, value.get("__metadata__", {}))
    tensors = [_tensor(path, name, entry) for name, entry in value.items() if name != "__metadata__"]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    header = SafetensorsHeader(
        tensors=tuple(tensors), metadata=metadata, data_start=8 + length, data_size=size - 8 - length
    )
    _require_contiguous(path, header)
    return header


def _malformed(path: Path, reason: str, *, help: str | None = None) -> LlmcError:
    return fail(
        "E0753", f"{path}: {reason}", help=help or "the file is damaged or not a safetensors file: download it again"
    )


def _header_length(path: Path, prefix: bytes, size: int) -> int:
    if len(prefix) < 8:
        raise _malformed(path, f"a safetensors file has at least 8 bytes, this one has {size}")
    length = int.from_bytes(prefix, "little")
    if prefix.startswith(b"version "):
        raise _malformed(path, "this is a Git LFS pointer, not the file itself", help="fetch it with: git lfs pull")
    if length > min(size - 8, MAX_HEADER_BYTES):
        raise _malformed(
            path, f"the header should be {length} bytes; {size - 8} follow, and at most {MAX_HEADER_BYTES} are read"
        )
    return length


def _metadata(path: Path, value: object) -> Mapping[str, str]:
    if not is_object(value):
        raise _malformed(path, "__metadata__ is not an object")
    texts: dict[str, str] = {}
    for key, text in value.items():
        if not isinstance(text, str):
            raise _malformed(path, f"__metadata__ {shown(key)} is not a string")
        texts[key] = text
    return MappingProxyType(texts)


def _tensor(path: Path, name: str, entry: object) -> StoredTensor:
    if not name or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise _malformed(path, f"the tensor name {shown(name)} is empty, too long or not printable")
    if not is_object(entry) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _malformed(path, f"tensor {shown(name)}: expected the keys dtype, shape and data_offsets")
    dtype = entry["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        known = did_you_mean(dtype, DTYPE_BYTES) if isinstance(dtype, str) else None
        raise _malformed(path, f"tensor {shown(name)}: unsupported dtype {_value(dtype)}", help=known)
    shape = _sizes(path, name, "shape", entry["shape"])
    offsets = _sizes(path, name, "data_offsets", entry["data_offsets"])
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _malformed(path, f"tensor {shown(name)}: data_offsets {_value(offsets)} are not a begin and an end")
    expected = math.prod(shape) * DTYPE_BYTES[dtype]
    if math.prod(size for size in shape if size) * DTYPE_BYTES[dtype] > MAX_TENSOR_BYTES:
        raise _malformed(path, f"tensor {shown(name)}: shape {_value(shape)} of {dtype} is more than 2^63 bytes")
    if offsets[1] - offsets[0] != expected:
        found = offsets[1] - offsets[0]
        raise _malformed(
            path, f"tensor {shown(name)}: {dtype} {_value(shape)} takes {expected} bytes, data_offsets give it {found}"
        )
    return StoredTensor(name=name, dtype=dtype, shape=shape, begin=offsets[0], end=offsets[1])


def _sizes(path: Path, name: str, field: str, value: object) -> tuple[int, ...]:
    if not is_list(value) or len(value) > MAX_RANK:
        raise _malformed(path, f"tensor {shown(name)}: {field} is not a list of at most {MAX_RANK} sizes")
    sizes: list[int] = []
    for item in value:
        if not is_int(item) or not 0 <= item <= MAX_TENSOR_BYTES:
            raise _malformed(path, f"tensor {shown(name)}: {field} holds {_value(item)}, not a size from 0 to 2^63 - 1")
        sizes.append(item)
    return tuple(sizes)


def _require_contiguous(path: Path, header: SafetensorsHeader) -> None:
    """Every byte of the data belongs to exactly one tensor."""
    position, previous = 0, "the beginning of the data"
    for tensor in header.tensors:
        if tensor.end > header.data_size:
            missing = tensor.end - header.data_size
            raise _malformed(
                path,
                f"tensor {shown(tensor.name)} lies at bytes {tensor.begin} to {tensor.end} of the data, "
                f"which has {header.data_size}: {missing} are missing",
                help="the file is truncated: download it again",
            )
        if tensor.begin != position:
            kind = "overlaps" if tensor.begin < position else "leaves a gap after"
            raise _malformed(
                path,
                f"tensor {shown(tensor.name)} {kind} {previous}: expected to begin at byte {position}, "
                f"begins at {tensor.begin}",
            )
        position, previous = tensor.end, f"tensor {shown(tensor.name)}"
    if position != header.data_size:
        raise _malformed(path, f"{previous} ends at byte {position}, the data has {header.data_size} bytes")


def _value(value: object) -> str:
    try:
        return shown(value) if isinstance(value, str) else shown(str(value)).strip("'")
    except ValueError:
        return "a number of thousands of digits"
