"""Atomic writes: the old file or the new one, whatever fails and whenever the process dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmc.runtime import atomic
from llmc.runtime.atomic import atomic_file, write_atomically
from llmc.specs.diagnostics import LlmcError


def test_new_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_atomically(path, "é")
    assert path.read_bytes() == "é".encode()
    path.chmod(0o640)
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]


def test_never_writes_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "symbolic").symlink_to(outside)
    os.link(outside, folder / "hard")
    for name in ("symbolic", "hard"):
        write_atomically(folder / name, "new")
        assert (folder / name).read_text() == "new"
        assert not (folder / name).is_symlink()
    assert outside.read_text() == "kept"


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_failing_call_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def refuse(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, call, refuse)
    with pytest.raises(LlmcError, match=r"E0757.*No space left"):
        write_atomically(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("failing", range(5))
def test_failing_nth_write(tmp_path: Path, failing: int) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def write() -> None:
        with atomic_file(path) as file:
            for number in range(5):
                file.write(b"new" if number != failing else bytes(number // 0))

    with pytest.raises(ZeroDivisionError):
        write()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(LlmcError, match="E0757"):
        write_atomically(tmp_path / "no" / "file", "x")


_CHILD = """
import sys
from pathlib import Path
from llmc.runtime.atomic import write_atomically
print("ready", flush=True)
number = 0
while True:
    number += 1
    write_atomically(Path(sys.argv[1]), str(number % 10) * 2_000_000)
"""


def _kill_while_writing(tmp_path: Path, instants: int) -> None:
    path = tmp_path / "file"
    for instant in range(instants):
        with subprocess.Popen([sys.executable, "-c", _CHILD, str(path)], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(0.003 + 0.0017 * (instant % 13))
            child.send_signal(signal.SIGKILL)
        if path.exists():
            text = path.read_text()
            assert len(text) == 2_000_000
            assert len(set(text)) == 1


def test_killed_while_writing(tmp_path: Path) -> None:
    _kill_while_writing(tmp_path, 6)


@pytest.mark.slow
def test_killed_at_200_instants(tmp_path: Path) -> None:
    _kill_while_writing(tmp_path, 200)
