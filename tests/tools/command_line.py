"""Runs the command line in this process or in another, for the tests of commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

from llmc.tools.cli import cli

HERE = Path(__file__).parent
TINY = HERE.parent / "compiler" / "emit" / "tiny.yaml"
MAIN = "from llmc.tools.cli import main; main()"


def run(*arguments: str | Path, input: str | None = None) -> Result:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], input=input, prog_name="llmc")
    assert "Traceback" not in result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def values(*arguments: str | Path) -> object:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def child(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", MAIN, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )


def wrong_spec(folder: Path) -> Path:
    path = folder / "wrong.yaml"
    path.write_text(TINY.read_text().replace("features: hidden_size}", "features: hiden_size}", 1))
    return path
