"""Diagnostics as text and as JSON, and the table of codes."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

import pytest

from llmc.specs.codes import CODES, exit_status
from llmc.specs.diagnostics import Diagnostic, LlmcError, Note, did_you_mean, fail, quoted
from llmc.specs.render import render, to_json
from llmc.specs.source import Span

SOURCE = "name: x\nq_proj: {op: linear, features: hiden_size}\n"


def span(line: int, column: int, end: int, file: str = "specs/x.yaml") -> Span:
    return Span(file=file, line=line, column=column, end_column=end)


MISTAKE = Diagnostic(
    code="E0412",
    message='the name "hiden_size" is not known here',
    span=span(2, 32, 42),
    notes=(Note(text="in this spec", span=span(1, 7, 8)), Note(text="params are known")),
    help='did you mean "hidden_size"?',
)


def test_picture() -> None:
    assert render([MISTAKE], {"specs/x.yaml": SOURCE}) == (
        'error[E0412]: the name "hiden_size" is not known here\n'
        " --> specs/x.yaml:2:32\n"
        "  |\n"
        "2 | q_proj: {op: linear, features: hiden_size}\n"
        "  |                                ^^^^^^^^^^\n"
        "  = note: in this spec\n"
        " --> specs/x.yaml:1:7\n"
        "  |\n"
        "1 | name: x\n"
        "  |       -\n"
        "  = note: params are known\n"
        '  = help: did you mean "hidden_size"?\n'
        "\n"
        "1 error\n"
    )


def test_counts_and_missing_places() -> None:
    warning = Diagnostic(code="E0101", message="m", severity="warning")
    text = render([warning, MISTAKE, MISTAKE], {})
    assert text.startswith("warning[E0101]: m\n\nerror[E0412]")
    assert text.endswith("\n\n2 errors, 1 warning\n")
    assert "hiden_size}" not in text
    assert render([]) == "no errors\n"


def test_sources_are_read_from_disk(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(SOURCE)
    assert "1 | name: x\n  | ^^^^\n" in render([Diagnostic(code="E0101", message="m", span=span(1, 1, 5, str(path)))])
    assert "|" not in render([Diagnostic(code="E0101", message="m", span=span(1, 1, 5, str(tmp_path)))])
    assert "|" not in render([Diagnostic(code="E0101", message="m", span=span(9, 1, 5, str(path)))])


def test_color_only_when_asked() -> None:
    plain, colored = (render([MISTAKE], {"specs/x.yaml": SOURCE}, color=color) for color in (False, True))
    assert "\x1b" not in plain
    assert re.sub("\x1b\\[[0-9;]*m", "", colored) == plain
    assert colored != plain


@pytest.mark.parametrize("bad", ["\x1b[2J", "\x07", "\u202e", "\x9b", "\ud800", "\n", "\r"])
def test_nothing_from_a_spec_acts_on_the_terminal(bad: str) -> None:
    diagnostic = Diagnostic(
        code="E0101", message=f"m{bad}", span=span(1, 1, 2, f"f{bad}"), notes=(Note(text=f"n{bad}"),), help=f"h{bad}"
    )
    text = render([diagnostic], {f"f{bad}": f"x{bad}y"})
    assert bad == "\n" or bad not in text
    assert len(text.splitlines()) == 9
    assert "m\\" in text
    assert bad not in str(LlmcError([diagnostic]))


def underline(line: str, column: int, end: int) -> tuple[str, str]:
    shown = render([Diagnostic(code="E0101", message="m", span=span(1, column, end, "f"))], {"f": line}).splitlines()
    return shown[3][4:], shown[4][4:]


def test_carets_stand_under_wide_combining_and_escaped_characters() -> None:
    assert underline("日本: x", 5, 6) == ("日本: x", "      ^")
    assert underline("e\u0301: x", 5, 6) == ("e\u0301: x", "   ^")
    assert underline("\ta", 2, 3) == ("    a", "    ^")
    assert underline("a\u202eb", 3, 4) == ("a\\u202eb", "       ^")
    assert underline("a:", 3, 3) == ("a:", "  ^")
    assert underline("a", 90, 95) == ("a", " ^")


def test_long_lines_are_cut_around_the_caret() -> None:
    line = "a" * 5000 + "HERE" + "b" * 5000
    text, carets = underline(line, 5001, 5005)
    assert len(text) < 130
    assert text[carets.index("^") : carets.rindex("^") + 1] == "HERE"
    assert text.startswith("…a")
    assert text.endswith("b…")


def test_json_has_stable_keys() -> None:
    bare = Diagnostic(code="E0101", message="m")
    first, second = to_json([MISTAKE, bare])
    assert list(first) == list(second)
    assert list(first) == ["code", "severity", "message", "file", "line", "column", "end_column", "notes", "help"]
    assert (first["file"], first["line"], first["column"], first["end_column"]) == ("specs/x.yaml", 2, 32, 42)
    assert first["notes"][0] == {
        "text": "in this spec",
        "file": "specs/x.yaml",
        "line": 1,
        "column": 7,
        "end_column": 8,
    }
    assert second["file"] is None
    assert json.loads(json.dumps([first, second])) == [first, second]


def test_messages() -> None:
    error = fail("E0101", "no", span(1, 2, 3), help="look")
    assert str(error) == "specs/x.yaml:1:2: E0101 no (look)"
    assert quoted("a" * 100, limit=5) == '"aaaaa…"'
    assert quoted("a\x1b") == '"a\\x1b"'
    assert did_you_mean("lineer", ["linear", "add"]) == 'did you mean "linear"?'
    assert did_you_mean("zzz", ["linear", "add"]) == "allowed here: add, linear"
    assert did_you_mean("zzz", []) is None


def test_every_code_that_specs_raises_is_in_the_table() -> None:
    texts = [Path(str(entry)).read_text() for entry in files("llmc.specs").iterdir() if entry.name.endswith(".py")]
    raised = {code for text in texts for code in re.findall(r'"(E0\d{3})"(?!:)', text)}
    assert len(raised) > 40
    assert raised <= set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_codes_have_a_title_and_two_examples(code: str) -> None:
    entry = CODES[code]
    assert re.fullmatch(r"E0[1-9]\d\d", code)
    assert 0 < len(entry.title) < 60
    assert re.search(r"\n\nWrong:\n    .+\n\nRight:\n    .+", entry.explanation, re.DOTALL)
    assert entry.exit_status == (1 if code < "E0900" else 3 if code < "E0950" else 4)


def test_exit_status_is_the_gravest() -> None:
    assert exit_status([]) == 0
    assert exit_status(["E0101", "E0412"]) == 1
