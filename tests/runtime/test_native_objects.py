"""The cache of compiled code: one compile for many builds, damaged entries, keys, and life without a compiler."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import llmc
from llmc.compiler.program import native_is_on
from llmc.runtime.choose import _say_once  # pyright: ignore[reportPrivateUsage]
from llmc.runtime.execute import TorchExecutor
from llmc.runtime.native import objects
from llmc.runtime.native.executor import NativeExecutor
from llmc.runtime.native.objects import shared_library, without_comments
from llmc.runtime.native.toolchain import NoCompiler, compiler, find_compiler

TEXT = "int llmc_answer(void) { return 42; }\n"
PARAMS = {"num_layers": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "vocab_size": 61}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and a compiler."""
    try:
        compiler()
    except NoCompiler as reason:
        pytest.skip(str(reason))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "llmc" / "objects"


def logging_compiler(folder: Path, log: Path) -> Path:
    """A compiler that notes each compilation in a file and is slow about it."""
    script = folder / "cc"
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *--version*) ;; *) echo compiled >> {log}; sleep 0.3;; esac\n'
        f'exec {compiler().path} "$@"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


def test_an_entry_is_made_once_and_kept(cache: Path) -> None:
    first = shared_library(TEXT, ())
    made = first.stat().st_mtime_ns
    assert shared_library(TEXT, ()) == first
    assert first.stat().st_mtime_ns == made
    assert first.parent == cache
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def test_a_full_disk_is_told_as_no_machine_code(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(NoCompiler, match=f"{cache} cannot take compiled code: No space left"):
        shared_library(TEXT, ())


def test_a_comment_makes_no_other_key_and_code_does() -> None:
    first = shared_library(TEXT, ())
    assert shared_library("/* specs/x.yaml:3 */\n" + TEXT, ()) == first
    assert shared_library(TEXT.replace("42", "43"), ()) != first
    assert without_comments("a /* b */ c\n\n  /* d\n */e") == "a  c\ne"


def test_two_caches_get_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = ("native/team.c", "norm/native.c")
    first = shared_library(TEXT, sources).read_bytes()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere" / "deeper"))
    assert shared_library(TEXT, sources).read_bytes() == first


@pytest.mark.parametrize("damage", [b"", b"not a library"])
def test_a_damaged_entry_is_set_aside_and_built_again(damage: bytes, cache: Path) -> None:
    path = shared_library(TEXT, ())
    whole = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(damage)
    with pytest.warns(UserWarning, match="damaged"):
        assert shared_library(TEXT, ()) == path
    assert path.read_bytes() == whole
    assert (cache / f"{path.name}.bad").read_bytes() == damage


def test_eight_builds_at_once_compile_once(tmp_path: Path, cache: Path) -> None:
    log = tmp_path / "log"
    script = logging_compiler(tmp_path, log)
    program = f"from llmc.runtime.native.objects import shared_library\nprint(shared_library({TEXT!r}, ()).name)"
    command = [sys.executable, "-P", "-c", program]
    children = [
        subprocess.Popen(command, env={**os.environ, "CC": str(script)}, stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    names = {child.communicate(timeout=120)[0].strip() for child in children}
    assert all(child.returncode == 0 for child in children)
    assert len(names) == 1
    assert log.read_text().count("compiled") == 1


def test_a_failing_compiler_leaves_nothing_behind(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(NoCompiler, match="failed"):
        shared_library("this is no C\n", ())
    assert not [path for path in cache.iterdir() if path.suffix == ".so"]


def test_without_a_compiler_torch_runs_and_says_why_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not native_is_on():
        pytest.skip("machine code is switched off")
    monkeypatch.setenv("CC", "there-is-no-such-compiler")
    find_compiler.cache_clear()
    _say_once.cache_clear()
    tokens = torch.tensor([[1, 2, 3, 4]])
    models = [llmc.load("llama", params=PARAMS) for _ in range(2)]
    given = [model(tokens, cache=model.new_cache(1, 8)) for model in models]
    assert all(type(model.executor()) is TorchExecutor for model in models)
    said = capsys.readouterr().err
    assert said.count("there is no C compiler here") == 1
    monkeypatch.delenv("CC")
    native = llmc.load("llama", params=PARAMS)
    assert isinstance(native.executor(), NativeExecutor)
    assert torch.allclose(native(tokens, cache=native.new_cache(1, 8)), given[0], atol=1e-5)  # type: ignore[arg-type]


def test_the_key_covers_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    first = shared_library(TEXT, ())
    monkeypatch.setattr(objects, "kernel_sources_hash", lambda: "other kernels")
    assert shared_library(TEXT, ()) != first
