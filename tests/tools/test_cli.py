"""The command line as a whole: help, usage errors, exit statuses, and that nothing ends in a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
import torch
from click.testing import CliRunner

from llmc.tools.cli import COMMANDS, cli

from .command_line import MAIN, TINY, child, run, values, wrong_spec


def test_help_names_every_command() -> None:
    text = run("--help").stdout
    assert all(name in text for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_json(name: str) -> None:
    result = run(name, "ls", "--help") if name == "cache" else run(name, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["chek"],
        ["check"],
        ["check", "llama", "--set", "novalue"],
        ["check", "llama", "--set", "a=[1"],
        ["build", "llama", "--dtype", "float8"],
        ["build", "llama", "--device", "tpu"],
        ["plan", "llama", "--ctx", "4x"],
        ["plan", "llama", "--ctx", "0"],
        ["show", "llama_tiny", "gpt2_tiny", "--format", "dot"],
        ["explain", "E9999"],
        ["generate", "--random", "--weights", "x"],
    ],
)
def test_usage_errors(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_unknown_command_has_a_remedy() -> None:
    assert 'did you mean "check"' in run("chek").stderr


def test_version() -> None:
    assert run("--version").stdout.startswith("llmc 0")


def test_exit_statuses(tmp_path: Path) -> None:
    assert child("check", str(TINY)).returncode == 0
    assert child("check", str(wrong_spec(tmp_path))).returncode == 1
    assert child("check").returncode == 2
    assert child("generate", str(TINY), "--random", "-p", "1", "--device", "cuda").returncode == 3
    (tmp_path / "file").write_text("")
    assert run("build", TINY, "-o", tmp_path / "file" / "out").exit_code == 1


def test_diagnostics_as_json_go_to_stdout() -> None:
    result = run("build", "lama2_7b", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["diagnostics"][0]["code"] == "E0140"


def test_broken_pipe_is_quiet() -> None:
    command = f'"{sys.executable}" -P -c "{MAIN}" schema | head -c 10'
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert found.stderr == ""


def test_a_negative_count_is_told_as_too_small() -> None:
    for given in ("-4", "-4k"):
        result = run("generate", TINY, "--random", "-p", "1", "-n", given)
        assert result.exit_code == 2
        assert f"{given} is less than 1" in result.stderr


def test_a_misspelt_switch_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMC_NATVE", "0")
    result = run("check", TINY)
    assert result.exit_code == 0
    assert result.stderr == 'warning: nothing reads LLMC_NATVE; did you mean "LLMC_NATIVE"?\n'


def test_closed_stdin_is_said() -> None:
    command = f'"{sys.executable}" -P -c "{MAIN}" generate {TINY} --random -p - <&-'
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 2
    assert "stdin, which is closed" in found.stderr


def test_prompt_of_another_encoding_is_said() -> None:
    result = CliRunner().invoke(cli, ["generate", str(TINY), "--random", "-p", "-"], input=b"caf\xe9", prog_name="llmc")
    assert result.exit_code == 2
    assert "not UTF-8 at byte 3" in result.stderr


def test_generating_from_nothing_says_that_it_is_not_there(tmp_path: Path) -> None:
    assert "there is no file" in run("generate", tmp_path / "mine", "-p", "1").stderr
    assert "has no weights" in run("generate", TINY, "-p", "1").stderr


def test_full_disk_is_no_traceback() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with open("/dev/full", "w") as full:
        found = subprocess.run(
            [sys.executable, "-P", "-c", MAIN, "schema"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert found.returncode == 4
    assert "Traceback" not in found.stderr


def test_no_color_where_it_is_not_wanted(tmp_path: Path) -> None:
    assert "\x1b" not in child("check", str(wrong_spec(tmp_path)), NO_COLOR="1").stderr


def test_a_bug_is_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("x\x1b[31m")

    monkeypatch.setattr("llmc.compiler.pipeline.read", broken)
    result = run("check", TINY)
    assert result.exit_code == 1
    assert "bug in llmc" in result.stderr
    assert "\x1b" not in result.stderr


def test_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llmc.compiler.pipeline.read", interrupted)
    assert run("check", TINY).exit_code == 130


def test_exhausted_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("llmc.compiler.pipeline.read", exhausted)
    assert run("check", TINY).exit_code == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", ""],
        ["check", "a\0b"],
        ["check", "/"],
        ["check", "specs"],
        ["build", "/dev/null"],
        ["show", str(TINY), "/nowhere.yaml"],
        ["plan", "llama", "--ctx", "1M"],
        ["explain", str(TINY), "no.such.node"],
        ["generate", str(TINY)],
        ["generate", str(TINY), "--random", "-p", ""],
        ["generate", str(TINY), "--random", "-p", "text"],
        ["generate", str(TINY), "--random", "-p", "1,2", "-n", "100"],
        ["generate", str(TINY), "--random", "-p", "1,99"],
        ["generate", str(TINY), "--random", "-p", "1", "--top-p", "2"],
        ["generate", str(TINY), "--random", "-p", "1", "--temperature", "nan"],
        ["generate", str(TINY), "--random", "-p", "1", "--seed", "-1"],
        ["generate", str(TINY), "--weights", "/nowhere"],
        ["import", "/nowhere"],
        ["bench", "bert_tiny"],
        ["show", str(TINY), "-o", "/nowhere/x"],
    ],
    ids=" ".join,
)
def test_wrong_input_is_a_diagnostic(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code in (1, 4)
    assert "error[E" in result.stderr


def test_doctor() -> None:
    found = cast("dict[str, dict[str, object]]", values("doctor"))
    assert found["packages"]["torch"] == torch.__version__ or str(found["packages"]["torch"]) in torch.__version__
    assert cast("float", found["cpu"]["cores"]) > 0
    assert run("doctor").exit_code == 0


def test_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "0 files" in run("cache", "ls").stdout
    assert run("cache", "clear").exit_code == 0
    (tmp_path / "llmc" / "a").mkdir(parents=True)
    (tmp_path / "llmc" / "a" / "b").write_bytes(b"123")
    (tmp_path / "kept").write_text("")
    (tmp_path / "llmc" / "link").symlink_to(tmp_path / "kept")
    assert cast("dict[str, object]", values("cache", "ls"))["files"]
    assert "removed 2 files" in run("cache", "clear").stdout
    assert not list((tmp_path / "llmc").iterdir())
    assert (tmp_path / "kept").exists()
