"""The cache's size: what was not used for longest goes, what is in use stays, also among simultaneous builds."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmc.runtime import cache_limit, pack_cache
from llmc.runtime.cache_limit import RECENT_SECONDS, limit, make_room, used
from llmc.runtime.native.objects import shared_library
from llmc.runtime.native.toolchain import NoCompiler, compiler
from llmc.runtime.user_cache import cache_folder, locked
from llmc.specs.diagnostics import LlmcError

KIB = 1 / 2**20
"""In GiB."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LLMC_CACHE_GIB", str(8 * KIB))
    return cache_folder()


def entry(path: Path, *, hours: float, kib: int = 3) -> Path:
    """One of so many KiB that was used so long ago, as its part of the cache writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = {path: kib * 1024, path.with_name(path.name + ".lock"): 0, path.with_name(path.name + ".sha256"): 0}
    if path.parent.name == "packed":
        path.mkdir()
        files = {path / "model.safetensors": kib * 1024, path / "sha256": 0, path.with_name(path.name + ".lock"): 0}
    if path.parent.name == "models":
        files = {path: kib * 1024}
    for file, size in files.items():
        file.write_bytes(b"x" * size)
    for file in (*files, path):
        age(file, hours)
    return path


def age(path: Path, hours: float) -> None:
    """As if it had last been used so long ago."""
    then = time.time() - hours * 3600
    os.utime(path, (then, then))


def held(folder: Path) -> set[str]:
    """The entries that there are; nothing else may be left of one that is gone."""
    return {path.name.split(".")[0] for part in cache_limit.FOLDERS for path in (folder / part).glob("*")}


def test_what_was_not_used_for_longest_goes(folder: Path) -> None:
    library = entry(folder / "objects" / "a.so", hours=5)
    packed = entry(folder / "packed" / "b", hours=4)
    entry(folder / "models" / "c.json", hours=3)
    tuned = entry(folder / "tuned" / "gpu.json", hours=900, kib=20)
    make_room()
    assert held(folder) == {"b", "c"}
    used(library.with_name("a.so.sha256"))
    entry(folder / "objects" / "d.so", hours=2)
    pack_cache.note_use((packed / "model.safetensors").resolve())
    make_room()
    assert held(folder) == {"b", "d"}, "a use is noted"
    assert tuned.exists(), "what was measured is not made again"


def test_what_is_in_use_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        entry(folder / "objects" / f"{number}.so", hours=0.5 * RECENT_SECONDS / 3600)
    old = entry(folder / "objects" / "old.so", hours=9)
    with locked(old.with_name("old.so.lock")):
        make_room()
        assert held(folder) == {"0", "1", "2", "3", "old"}
    make_room()
    assert held(folder) == {"0", "1", "2", "3"}
    monkeypatch.setenv("LLMC_CACHE_GIB", "0")
    entry(folder / "objects" / "more.so", hours=9)
    make_room()
    assert "more" in held(folder)


def test_what_a_killed_process_left_goes_too(folder: Path) -> None:
    left = folder / "packed" / "tmp12345"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"x" * 9000)
    for path in (left / "model.safetensors", left):
        age(path, 9)
    make_room()
    assert not list((folder / "packed").iterdir())


@pytest.mark.parametrize("text", ["64G", "-1", "nan", "inf"])
def test_a_limit_that_is_no_size(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMC_CACHE_GIB", text)
    with pytest.raises(LlmcError, match="E0904"):
        limit()


def _text(number: int) -> str:
    return f"int llmc_answer(void) {{ return {number}; }}\n"


def _build(number: int, queue: multiprocessing.SimpleQueue[int]) -> None:
    """Its own library, and one that all of them use and nobody has used for long."""
    for one in (number, 0, number, 0):
        queue.put(ctypes.CDLL(str(shared_library(_text(one), ()))).llmc_answer())


def test_eight_simultaneous_builds_take_nothing_from_each_other(folder: Path) -> None:
    try:
        compiler()
    except NoCompiler as reason:
        pytest.skip(str(reason))
    shared = shared_library(_text(0), ())
    for file in _files(shared):
        age(file, 9)
    entry(folder / "objects" / "unused.so", hours=8, kib=40)
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.SimpleQueue[int] = context.SimpleQueue()
    children = [context.Process(target=_build, args=(number, queue)) for number in range(1, 9)]
    for child in children:
        child.start()
    answers = sorted(queue.get() for _ in range(32))
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * 8
    assert answers == sorted([0] * 16 + [*range(1, 9)] * 2)
    assert "unused" not in held(folder)
    assert len(list((folder / "objects").glob("*.so"))) == 9


def _files(path: Path) -> Iterator[Path]:
    return path.parent.glob(f"{path.stem}.*")
