"""Names from strangers never open anything outside their folder."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from llmc.runtime.containment import find_inside, inside, read_json, read_text, require_folder
from llmc.specs.diagnostics import LlmcError

HOSTILE = (
    "", ".", "..", "../secret", "../../etc/passwd", "/etc/passwd", "//etc/passwd", "a/../../secret", "a/..", "./a",
    "a//b", "a/", "/", "~", "~root/x", "..\\secret", "C:\\secret", "C:secret", "\\\\server\\share", "a\0b",
    "secret\0.safetensors",
    "\u2025/secret", "\u2024\u2024/secret", "\uff0e\uff0e/secret", "..\u2215secret", "..\u2044secret", "..\uff0fsecret",
    "..\u29f8secret", ". ./secret", ".. /secret", "... /secret", "a./b", "a.", " a", "a ", "\u202egnp.a", "a\u200b/b",
    "a\nb", "a\x1b[2Jb", "\ud800", "x" * 300, "d/" * 600 + "x", "file:///etc/passwd", "\ufeffa", "a\u2028b",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "model-evil").mkdir()
    (tmp_path / "model-evil" / "a").write_text("secret")
    folder = tmp_path / "model"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "b").write_text("fine")
    (folder / "c").write_text("fine")
    return folder


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_name(folder: Path, name: str) -> None:
    with pytest.raises(LlmcError) as caught:
        inside(folder, name)
    assert caught.value.diagnostics[0].code == "E0750"
    assert caught.value.diagnostics[0].message.isprintable()


def test_good_names(folder: Path) -> None:
    assert inside(folder, "a/b").read_text() == "fine"
    (folder / "modèle-00001.safetensors").write_text("fine")
    assert inside(folder, "modèle-00001.safetensors").name == "modèle-00001.safetensors"
    (folder / "alias").symlink_to("a/b")
    assert inside(folder, "alias") == folder.resolve() / "a" / "b"
    assert find_inside(folder, "nothing") is None
    link = folder.parent / "link_to_model"
    link.symlink_to(folder)
    assert inside(link, "c") == folder.resolve() / "c"


@pytest.mark.parametrize("target", ["../secret", "/etc/passwd", "../model-evil/a", "nothing", "loop", "../model-evil"])
def test_link_that_leaves(folder: Path, target: str) -> None:
    (folder / "loop").symlink_to(target)
    with pytest.raises(LlmcError, match="E0750"):
        find_inside(folder, "loop")


def test_linked_folder_that_leaves(folder: Path) -> None:
    (folder / "sub").symlink_to(folder.parent)
    with pytest.raises(LlmcError, match="leaves the folder"):
        inside(folder, "sub/secret")


@pytest.mark.parametrize("kind", ["fifo", "socket", "folder"])
def test_not_a_regular_file(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "thing"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(folder)
        socket.socket(socket.AF_UNIX).bind("thing")
    else:
        path.mkdir()
    with pytest.raises(LlmcError, match="E0750"):
        inside(folder, "thing")
    with pytest.raises(LlmcError, match="E0750"):
        read_json(path, 100)


def test_device() -> None:
    with pytest.raises(LlmcError, match="E0750"):
        read_json(Path("/dev/zero"), 100)


def test_missing(folder: Path) -> None:
    (folder / "confg.json").write_text("{}")
    with pytest.raises(LlmcError, match=r"E0751.*config\.json.*did you mean") as caught:
        inside(folder, "config.json")
    assert "confg.json" in str(caught.value)
    with pytest.raises(LlmcError, match=r'E0751.*did you mean "model"'):
        require_folder(folder.with_name("modle"))
    with pytest.raises(LlmcError, match="is a file"):
        require_folder(folder / "c")
    with pytest.raises(LlmcError, match="E0751"):
        require_folder(Path("a\0b"))


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[1,]", b"\xff", b'"\xc0\x80"', b'{"a":1,"a":2}', b'{"a":{"b":1,"b":1}}', b"NaN", b"[Infinity]",
        b"-Infinity", b"1e999", b"[" * 100 + b"]" * 100, b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b'"\\ud800"',
        b'{"\\udc00":1}', b"\xef\xbb\xbf{}", b"[1] 2", b"'a'", b"{1:2}", b'"\x01"',
    ],
    ids=lambda text: ascii(text[:12]),
)  # fmt: skip
def test_malformed_json(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text)
    with pytest.raises(LlmcError, match="E0752"):
        read_json(path, 10**6)


def test_json_bounds(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'{"a": [1, 2.5, "\\ud83d\\ude00"]}')
    assert read_json(path, 100) == {"a": [1, 2.5, "😀"]}
    with pytest.raises(LlmcError, match="larger than 10"):
        read_json(path, 10)
    path.write_bytes(b"[" * 64 + b"]" * 64)
    read_json(path, 1000)
    path.write_bytes(b"[" + b"[]," * 9_000_000 + b"[]]")
    began = time.monotonic()
    with pytest.raises(LlmcError, match="more than 8000000 values"):
        read_json(path, 10**8)
    assert time.monotonic() - began < 5
    path.write_bytes(b"\xff")
    with pytest.raises(LlmcError, match="not UTF-8"):
        read_text(path, 10)


def test_a_hub_cache_may_link_to_its_own_blobs_only(tmp_path: Path) -> None:
    model = tmp_path / "models--org--name"
    snapshot, blobs = model / "snapshots" / "abc", model / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "0123").write_text("{}")
    (tmp_path / "secret").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/0123")
    (snapshot / "evil.json").symlink_to("../../../secret")
    (snapshot / "refs.json").symlink_to(model / "blobs" / ".." / ".." / "secret")
    assert inside(snapshot, "config.json") == (blobs / "0123").resolve()
    for name in ("evil.json", "refs.json"):
        with pytest.raises(LlmcError):
            inside(snapshot, name)
