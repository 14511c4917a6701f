"""Damaged safetensors files: a diagnostic or a correct load, never another exception."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from llmc.runtime.checkpoint import open_checkpoint
from llmc.runtime.safetensors_header import read_header
from llmc.specs.diagnostics import LlmcError

SHAPES = ((4, 3), (5,), (), (2, 2, 2), (0, 3), (1,))
TENSORS = {f"model.layers.{i}.weight": torch.full(shape, 1.5) for i, shape in enumerate(SHAPES)}
WHOLE = save(TENSORS, metadata={"format": "pt"})
HEADER = int.from_bytes(WHOLE[:8], "little")


def file_of(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def one(**fields: object) -> dict[str, object]:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **fields}}


def tensor(begin: int, end: int, shape: list[int], dtype: str = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


EIGHT = bytes(8)
BIG = 2**63
MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "seven bytes": bytes(7),
    "zero header": bytes(8),
    "length beyond the file": file_of(one(), EIGHT, length=10_000),
    "length of 2^64-1": file_of(one(), EIGHT, length=2**64 - 1),
    "length of 2^63": file_of(one(), EIGHT, length=BIG),
    "length of 2^31": file_of(one(), EIGHT, length=2**31),
    "length one too long": file_of(one(), EIGHT, length=len(json.dumps(one())) + 1),
    "length one too short": file_of(one(), EIGHT, length=len(json.dumps(one())) - 1),
    "git lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "zip of torch.save": b"PK\x03\x04" + bytes(60),
    "list": file_of([]),
    "null": file_of(b"null"),
    "number": file_of(b"1"),
    "leading space": file_of(b' {"w":1}'),
    "not json": file_of(b"{w: 1}"),
    "not utf-8": file_of(b'{"\xff": 1}'),
    "nul after json": file_of(json.dumps(one()).encode() + b"\0", EIGHT),
    "deep": file_of(b'{"a":' * 50_000),
    "deep list": file_of(b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "nan": file_of(b'{"w": NaN}'),
    "duplicate tensor": file_of(
        b'{"w":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"w":{"dtype":"I8","shape":[8],"data_offsets":[0,8]}}',
        EIGHT,
    ),
    "duplicate field": file_of(b'{"w":{"dtype":"U8","dtype":"I8","shape":[8],"data_offsets":[0,8]}}', EIGHT),
    "duplicate metadata": file_of(b'{"__metadata__":{"a":"1","a":"2"}}'),
    "metadata number": file_of({"__metadata__": {"a": 1}}),
    "metadata list": file_of({"__metadata__": []}),
    "entry is a list": file_of({"w": []}),
    "entry is null": file_of({"w": None}),
    "missing dtype": file_of({"w": {"shape": [2], "data_offsets": [0, 8]}}, EIGHT),
    "missing shape": file_of({"w": {"dtype": "F32", "data_offsets": [0, 8]}}, EIGHT),
    "missing offsets": file_of({"w": {"dtype": "F32", "shape": [2]}}, EIGHT),
    "unknown field": file_of(one(color="red"), EIGHT),
    "unknown dtype": file_of(one(dtype="F31"), EIGHT),
    "lower-case dtype": file_of(one(dtype="f32"), EIGHT),
    "dtype number": file_of(one(dtype=7), EIGHT),
    "shape text": file_of(one(shape="2"), EIGHT),
    "shape negative": file_of(one(shape=[-2]), EIGHT),
    "shape two negatives": file_of(one(shape=[-1, -2]), EIGHT),
    "shape float": file_of(one(shape=[2.0]), EIGHT),
    "shape bool": file_of(one(shape=[True, 2]), EIGHT),
    "shape nested": file_of(one(shape=[[2]]), EIGHT),
    "shape of 2^63": file_of(one(shape=[BIG]), EIGHT),
    "product of 2^64": file_of(one(shape=[2**32, 2**32]), EIGHT),
    "product wraps to 8 bytes": file_of(one(shape=[2**62, 4, 2]), EIGHT),
    "huge beside zero": file_of(one(shape=[0, 2**62, 2**62], data_offsets=[0, 0])),
    "rank 1000": file_of(one(shape=[1] * 1000), EIGHT),
    "5000 digits": file_of(b'{"w":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}', EIGHT),
    "offsets of one": file_of(one(data_offsets=[0]), EIGHT),
    "offsets of three": file_of(one(data_offsets=[0, 8, 8]), EIGHT),
    "offsets reversed": file_of(one(data_offsets=[8, 0]), EIGHT),
    "offsets negative": file_of(one(data_offsets=[-8, 0]), EIGHT),
    "offsets of 2^64": file_of(one(data_offsets=[2**64 - 8, 2**64]), EIGHT),
    "offsets float": file_of(one(data_offsets=[0.0, 8.0]), EIGHT),
    "offsets beyond data": file_of(one(), bytes(7)),
    "no data": file_of(one()),
    "data without tensors": file_of({}, EIGHT),
    "too much data": file_of(one(), bytes(9)),
    "shape smaller than offsets": file_of(one(shape=[1]), EIGHT),
    "shape larger than offsets": file_of(one(shape=[3]), EIGHT),
    "gap at the beginning": file_of(one(data_offsets=[1, 9]), bytes(9)),
    "gap": file_of({"a": tensor(0, 2, [2]), "b": tensor(3, 8, [5])}, EIGHT),
    "overlap": file_of({"a": tensor(0, 5, [5]), "b": tensor(4, 8, [4])}, EIGHT),
    "same bytes twice": file_of({"a": tensor(0, 8, [8]), "b": tensor(0, 8, [8])}, EIGHT),
    "empty tensor inside another": file_of({"a": tensor(0, 8, [8]), "b": tensor(4, 4, [0])}, EIGHT),
    "empty tensor beyond": file_of({"a": tensor(0, 8, [8]), "b": tensor(9, 9, [0])}, EIGHT),
    "name with newline": file_of({"a\nb": tensor(0, 8, [8])}, EIGHT),
    "name with escape": file_of({"\x1b[2J": tensor(0, 8, [8])}, EIGHT),
    "empty name": file_of({"": tensor(0, 8, [8])}, EIGHT),
    "name of surrogate": file_of(b'{"\\ud800":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}', EIGHT),
    "long name": file_of({"x" * 5000: tensor(0, 8, [8])}, EIGHT),
}


def attempt(folder: Path, data: bytes) -> bool:
    """True where the file opened and every tensor could be read; LlmcError gives False; all else is raised."""
    (folder / "model.safetensors").write_bytes(data)
    try:
        with open_checkpoint(folder) as checkpoint:
            for name, entry in checkpoint.entries.items():
                assert tuple(checkpoint.read(name).shape) == entry.shape
    except LlmcError as error:
        messages = [diagnostic.message for diagnostic in error.diagnostics]
    else:
        return True
    assert all("model.safetensors" in message and message.isprintable() for message in messages)
    return False


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(MALFORMED[name])
    with pytest.raises(LlmcError, match="E0753"):
        open_checkpoint(tmp_path)
    assert not attempt(tmp_path, MALFORMED[name])


def test_there_are_sixty() -> None:
    assert len(MALFORMED) >= 60


def test_well_formed(tmp_path: Path) -> None:
    for data in (
        WHOLE,
        file_of({}),
        file_of(one(), EIGHT),
        file_of(json.dumps(one()).encode() + b"   ", EIGHT),
        file_of({"a": tensor(0, 0, [0]), "b": tensor(0, 8, [8]), "c": tensor(8, 8, [3, 0])}, EIGHT),
        file_of({"odd": tensor(0, 1, [1]), "w": tensor(1, 5, [1], "F32")}, bytes(5)),
    ):
        assert attempt(tmp_path, data)


def test_messages_name_expected_and_found(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for name, message in (
        ("overlap", r"tensor 'b' overlaps tensor 'a': expected to begin at byte 5, begins at 4"),
        ("gap", r"tensor 'b' leaves a gap after tensor 'a': expected to begin at byte 2, begins at 3"),
        ("shape larger than offsets", r"tensor 'w': F32 \(3,\) takes 12 bytes, data_offsets give it 8"),
        ("offsets beyond data", r"which has 7: 1 are missing \(the file is truncated"),
        ("unknown dtype", r"unsupported dtype 'F31' \(did you mean \"F32\"\?\)"),
        ("duplicate tensor", r"the key 'w' is written twice"),
        ("git lfs pointer", "git lfs pull"),
    ):
        path.write_bytes(MALFORMED[name])
        with pytest.raises(LlmcError, match=message):
            read_header(path)


def test_truncated_at_every_tensor_edge(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(WHOLE)
    header = read_header(path)
    edges = {edge + header.data_start for item in header.tensors for edge in (item.begin, item.end, item.end - 1)}
    for edge in sorted({*edges, *range(16), HEADER, HEADER + 7, HEADER + 8, len(WHOLE) - 1} - {len(WHOLE)}):
        assert not attempt(tmp_path, WHOLE[:edge])
    assert not attempt(tmp_path, WHOLE + b"\0")


def flip_each_byte(tmp_path: Path, flips: Callable[[int], tuple[int, ...]], end: int, whole: bytes) -> None:
    for position in range(min(end, len(whole))):
        for flip in flips(position):
            data = bytearray(whole)
            data[position] ^= flip
            attempt(tmp_path, bytes(data))


def test_each_byte_flipped(tmp_path: Path) -> None:
    flip_each_byte(tmp_path, lambda position: (1 << position % 8, 0xFF), 8 + HEADER, WHOLE)


@pytest.mark.slow
def test_each_byte_of_4_kb_flipped_in_each_bit(tmp_path: Path) -> None:
    tensors = {f"model.layers.{i}.self_attn.q_proj.weight": torch.ones(i % 5, 3) for i in range(40)}
    flip_each_byte(tmp_path, lambda _: tuple(1 << bit for bit in range(8)), 4096, save(tensors))


def test_random_mutations(tmp_path: Path) -> None:
    generator = random.Random(0)
    for _ in range(300):
        data = bytearray(WHOLE)
        for _ in range(generator.randint(1, 4)):
            at = generator.randrange(len(data))
            match generator.randrange(3):
                case 0:
                    data[at] = generator.randrange(256)
                case 1:
                    del data[at : at + generator.randint(1, 9)]
                case _:
                    data[at:at] = bytes(generator.choice(b'0123456789"{}[],:') for _ in range(generator.randint(1, 4)))
        attempt(tmp_path, bytes(data))
