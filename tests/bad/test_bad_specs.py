"""Every wrong spec of this folder gets the diagnostics that its first lines announce, at the place they announce."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmc.compiler.pipeline import read
from llmc.specs.codes import CODES
from llmc.specs.diagnostics import Diagnostic, LlmcError
from llmc.specs.render import render

FOLDER = Path(__file__).parent
PARENTS = ("parent_decoder",)
"""Legal specs, which wrong ones extend."""

SPECS = sorted(path for path in FOLDER.glob("*.yaml") if path.stem not in PARENTS)
_EXPECTED = re.compile(r"# expect: (E\d{4})(?: at (?:(\w+\.yaml):)?(\d+):(\d+))?\n")

SECONDS = 10
"""Ten times the promise, which is one second."""


def expected(path: Path) -> list[tuple[str, str]]:
    """Code and place of each diagnostic that the file announces, e.g. `("E0201", "yaml_tab.yaml:3:7")`."""
    found: list[tuple[str, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        match = _EXPECTED.fullmatch(line)
        if match is None:
            break
        code, file, row, column = match.groups()
        found.append((code, f"{file or path.name}:{row}:{column}" if row else ""))
    return found


def place(diagnostic: Diagnostic) -> str:
    span = diagnostic.span
    return f"{Path(span.file).name}:{span.line}:{span.column}" if span is not None else ""


def texts(diagnostic: Diagnostic) -> Iterator[str]:
    yield diagnostic.message
    yield diagnostic.help or ""
    yield from (note.text for note in diagnostic.notes)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_wrong_spec_is_diagnosed(path: Path) -> None:
    announced = expected(path)
    assert announced, "the file must begin with # expect: lines"
    began = time.perf_counter()
    with pytest.raises(LlmcError) as caught:
        read(path)
    assert time.perf_counter() - began < SECONDS
    diagnostics = caught.value.diagnostics
    assert sorted((d.code, place(d)) for d in diagnostics) == sorted(announced), render(diagnostics)
    for diagnostic in diagnostics:
        assert diagnostic.help, render([diagnostic])
        for text in texts(diagnostic):
            assert text.isprintable()
            assert len(text) < 400
            assert "None" not in text or "None" in path.read_text(encoding="utf-8")
            assert "<class" not in text


@pytest.mark.parametrize("name", PARENTS)
def test_parents_are_legal(name: str) -> None:
    read(FOLDER / f"{name}.yaml")


def test_every_code_of_a_spec_has_two_files() -> None:
    """Files that cannot be written into a repository, and what `--set` gives, are tried elsewhere."""
    elsewhere = {
        "E0101",
        "E0102",
        "E0103",
        "E0104",
        "E0105",
        "E0110",
        "E0134",
        "E0141",
        "E0434",
        "E0603",
        "E0605",
        "E0606",
        "E0607",
    }
    counts = Counter(code for path in SPECS for code in {code for code, _ in expected(path)})
    assert {code for code in CODES if code < "E0703" and counts[code] < 2} <= elsewhere
