"""The tutorial is run from its first line to its last: its files, commands and Python give what it shows."""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import llmc
from llmc.tools.cli import cli

PAGE = Path(llmc.__path__[0]) / "specs" / "TUTORIAL.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"loss (\d+\.\d+)")


def blocks() -> list[tuple[str, str]]:
    return FENCE.findall(PAGE.read_text(encoding="utf-8"))


def run_line(line: str) -> str:
    """What one command prints; `| grep ^WORD` keeps lines, as it does in a shell."""
    command, _, beginning = line.partition(" | grep ^")
    program, *words = shlex.split(command)
    assert program == "llmc"
    result = CliRunner().invoke(cli, words, prog_name="llmc")
    seen = result.stdout if result.exit_code == 0 else result.stderr
    return "".join(f"{row}\n" for row in seen.splitlines() if row.startswith(beginning))


def require_shown(ours: str, shown: str) -> None:
    """Losses may differ from machine to machine, most in the midst of the training; all else may not."""
    assert NUMBER.sub("loss", ours) == NUMBER.sub("loss", shown)
    losses, shown_losses = ([float(loss) for loss in NUMBER.findall(text)] for text in (ours, shown))
    for index in (0, -1) if losses else ():
        assert abs(losses[index] - shown_losses[index]) < 0.3
    assert all(loss < losses[0] for loss in losses[1:])


def test_the_page_is_as_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    printed, kinds = "", set[str]()
    names: dict[str, object] = {}
    for kind, text in blocks():
        kinds.add(kind)
        if kind == "yaml":
            name = re.findall(r"^name: (\w+)$", text, re.MULTILINE)[0]
            (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
        elif kind == "console":
            for part in text.split("$ ")[1:]:
                line, _, shown = part.partition("\n")
                assert run_line(line) == shown, line
        elif kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as stream:
                exec(compile(text, str(PAGE), "exec"), names)
            printed = stream.getvalue()
        else:
            require_shown(printed, text)
    assert kinds == {"yaml", "console", "python", "text"}


def test_no_spec_says_it_already() -> None:
    """The point of the page: the hybrid is a new architecture, and the test above is not about a packaged one."""
    from llmc.specs.packaged import packaged_names

    assert "hybrid" not in packaged_names()
