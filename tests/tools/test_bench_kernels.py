"""The benchmark of linear kernels compiles and measures."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pytest

from llmc.tools.bench.kernels import FORMATS, compiled, measure, show


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on this machine")
def test_every_format_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    driver = compiled(tmp_path)
    options = argparse.Namespace(millions=1, threads=1, repeats=1)
    lines = [
        measure(driver, format, rows, huge, options) for format in FORMATS for rows, huge in ((1, True), (9, False))
    ]
    assert all(line.best > 0 and line.limit_best > 0 and line.share > 0 for line in lines)
    assert lines[0].bytes > 1.9 * lines[2].bytes
    show(lines)
    assert len(capsys.readouterr().out.splitlines()) == len(lines) + 1
