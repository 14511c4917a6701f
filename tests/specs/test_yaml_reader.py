"""The YAML reader: scalars of YAML 1.2, spans, the diagnostics of wrong texts, and the limits that stop bombs."""

from __future__ import annotations

import math
import os
import random
import time
from pathlib import Path

import pytest

from llmc.specs.diagnostics import LlmcError
from llmc.specs.source import Span, YamlList, YamlMap, YamlNode, YamlScalar, plain
from llmc.specs.yaml_reader import read_yaml, read_yaml_file


def codes(text: str) -> list[str]:
    with pytest.raises(LlmcError) as caught:
        read_yaml(text, "x.yaml")
    return [diagnostic.code for diagnostic in caught.value.diagnostics]


def value(text: str) -> object:
    node = read_yaml(f"a: {text}", "x.yaml").get("a")
    assert isinstance(node, YamlScalar)
    return node.value


def at(span: Span) -> tuple[int, int, int]:
    return span.line, span.column, span.end_column


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-5", 1e-5),
        ("1.", 1.0),
        (".5", 0.5),
        ("+12e03", 12000.0),
        ("-2", -2),
        ("+7", 7),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("~", None),
        ("null", None),
        ("", None),
        ("true", True),
        ("False", False),
        ("on", "on"),
        ("no", "no"),
        ("yes", "yes"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("1_000", "1_000"),
        ("0b1", "0b1"),
        ("-0x1", "-0x1"),
        ("NULL", None),
        ("nUll", "nUll"),
        ("'1'", "1"),
        ('"\\x1b"', "\x1b"),
        ("999999999999999999", 10**18 - 1),
    ],
)
def test_scalars_follow_the_core_schema(text: str, expected: object) -> None:
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


def test_nan_and_quotes() -> None:
    found = value(".nan")
    assert isinstance(found, float)
    assert math.isnan(found)
    root = read_yaml("a: '1'\nb: 1\nc: |\n  1\n", "x.yaml")
    assert [node.is_quoted for e in root.entries.values() if isinstance(node := e.value, YamlScalar)] == [
        True,
        False,
        True,
    ]


def test_spans_count_code_points_and_end_on_their_first_line() -> None:
    text = "é: {日本: 1, y: 'a b'}\nlong: |\n  two\n  lines\nflow: [1,\n  2]\nblock:\n  - one\n  - two\nempty:\n"
    root = read_yaml(text, "x.yaml")
    first = root.get("é")
    assert isinstance(first, YamlMap)
    assert at(root.entries["é"].key_span) == (1, 1, 2)
    assert at(first.span) == (1, 4, 21)
    assert at(first.entries["日本"].key_span) == (1, 5, 7)
    assert at(first.entries["y"].value.span) == (1, 15, 20)
    spans = {key: at(entry.value.span) for key, entry in root.entries.items()}
    assert spans["long"] == (2, 7, 8)
    assert spans["flow"] == (5, 7, 9)
    assert spans["block"] == (8, 3, 8)
    assert spans["empty"] == (10, 7, 7)
    assert root.span.file == "x.yaml"


def test_aliases_share_the_node_and_comments_and_bom_are_skipped() -> None:
    root = read_yaml("\ufeff# note\na: &a [1, 2]\nb: *a\n", "x.yaml")
    assert plain(root) == {"a": [1, 2], "b": [1, 2]}
    assert root.get("b") is root.get("a")


@pytest.mark.parametrize(
    ("text", "code", "line", "column"),
    [
        ("a: {b: 1", "E0107", 2, 1),
        ("a: b: c", "E0107", 1, 5),
        ("a: 'x", "E0107", 1, 6),
        ("a: @x", "E0107", 1, 4),
        ("a:\n\tb: 1", "E0108", 2, 1),
        ("a:\n  b: 1\n  \tc: 1", "E0108", 3, 3),
        ("a: 1\n---\nb: 1", "E0109", 2, 1),
        ("- 1", "E0111", 1, 1),
        ("just text", "E0111", 1, 1),
        ("a: &a [*a]", "E0114", 1, 8),
        ("a: &a {b: [*a]}", "E0114", 1, 12),
        ("a: *b", "E0115", 1, 4),
        ("a: !!python/object:os.system x", "E0116", 1, 4),
        ("a: !!float 1", "E0116", 1, 4),
        ("a: ! x", "E0116", 1, 4),
        ("a: !mine {b: 1}", "E0116", 1, 4),
        ("a: &a {b: 1}\nc:\n  <<: *a", "E0117", 3, 3),
        ("a: 1\na: 2", "E0118", 2, 1),
        ("a: 1\n'a': 2", "E0118", 2, 1),
        ("1: a", "E0119", 1, 1),
        ("b: {null: a}", "E0119", 1, 5),
        ("true: a", "E0119", 1, 1),
        ("?\n: a", "E0119", 1, 2),
        ("? [a]\n: b", "E0119", 1, 3),
        ("a: &a 1\n*a : 2", "E0119", 2, 1),
        ("a: 1000000000000000000", "E0120", 1, 4),
        ("a: 0xFFFFFFFFFFFFFFFF", "E0120", 1, 4),
        ("a: -" + "9" * 5000, "E0120", 1, 4),
        ("a: 1e999", "E0121", 1, 4),
        ("a: x\x00", "E0106", 1, 5),
        ("a: 1\r\nb: \x1b", "E0106", 2, 4),
        ("a: \u2028", "E0106", 1, 4),
        ("a: \ud800", "E0106", 1, 4),
    ],
)
def test_wrong_texts(text: str, code: str, line: int, column: int) -> None:
    with pytest.raises(LlmcError) as caught:
        read_yaml(text, "x.yaml")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.span is not None
    assert (diagnostic.code, diagnostic.span.line, diagnostic.span.column) == (code, line, column)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "\n\n"])
def test_empty(text: str) -> None:
    assert codes(text) == ["E0110"]


def test_duplicate_key_points_at_both() -> None:
    with pytest.raises(LlmcError) as caught:
        read_yaml("a:\n  b: 1\n  b: 2\n", "x.yaml")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.span is not None
    assert diagnostic.notes[0].span is not None
    assert (diagnostic.span.line, diagnostic.notes[0].span.line) == (3, 2)


def test_all_mistakes_at_once() -> None:
    assert codes("a: 1\na: 2\n1: x\nb: !t y\nc: 1e999\n") == ["E0118", "E0119", "E0116", "E0121"]


def laughs() -> str:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for name, before in zip("bcdefghi", "abcdefgh", strict=True):
        lines.append(f"{name}: &{name} [{', '.join(['*' + before] * 9)}]")
    return "\n".join(lines)


BOMBS = {
    "billion laughs": (laughs(), "E0112"),
    "map laughs": ("a: &a {p: 1, q: 2}\n" + "".join(f"b{i}: [{'*a, ' * 30}]\n" for i in range(1200)), "E0112"),
    "alias of deep": ("a: &a " + "[" * 40 + "]" * 40 + "\nb: " + "[" * 30 + "*a" + "]" * 30, "E0113"),
    "flow lists": ("a: " + "[" * 5000, "E0113"),
    "flow maps": ("a: " + "{x: " * 5000, "E0113"),
    "block maps": ("\n".join(" " * i + "a:" for i in range(1000)), "E0113"),
    "block lists": ("a:\n " + "- " * 5000, "E0113"),
    "10 MB": ("a: " + "x" * 10_000_000, "E0104"),
    "1 MiB of wide characters": ("a: " + "é" * 600_000, "E0104"),
    "a million keys": ("".join(f"k{i}: 1\n" for i in range(1_000_000)), "E0104"),
    "120 000 keys": ("".join(f"{i}a:\n" for i in range(120_000)), "E0112"),
    "500 000 items": ("a: [" + "1," * 500_000 + "]", "E0112"),
    "long integer": ("a: " + "9" * 5000, "E0120"),
    "long float": ("a: " + "9" * 5000 + ".0", "E0121"),
    "many documents": ("---\n" * 200_000, "E0109"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_quickly(name: str) -> None:
    text, code = BOMBS[name]
    started = time.process_time()
    found = codes(text)
    assert time.process_time() - started < 2.0  # what is not refused takes minutes, or all of the memory
    assert found == [code]


def test_the_limits_themselves_are_legal() -> None:
    deep = read_yaml("a: " + "[" * 63 + "]" * 63, "x.yaml").get("a")
    assert isinstance(deep, YamlList)
    assert codes("a: " + "[" * 64 + "]" * 64) == ["E0113"]
    items = read_yaml("a: [" + "1," * 99_997 + "]", "x.yaml").get("a")
    assert isinstance(items, YamlList)
    assert len(items.items) == 99_997
    assert codes("a: [" + "1," * 99_998 + "]") == ["E0112"]


def test_random_texts_only_ever_raise_diagnostics() -> None:
    pieces = ["a", ": ", "\n", "  ", "- ", "[", "]", "{", "}", ", ", "&a ", "*a", "!t ", "'", '"', "|", ">", "#", "? "]
    pieces += ["<<", "1", "\t", "%YAML 1.2", "---\n", "...", "\\", "\x00", "é", "\U0001f600", "null", "1e999", "\r"]
    source = random.Random(1)
    seen: set[str] = set()
    for _ in range(3000):
        text = "".join(source.choices(pieces, k=source.randrange(20)))
        try:
            _check_spans(read_yaml(text, "x.yaml"), text.splitlines())
            seen.add("read")
        except LlmcError as error:
            seen.update(diagnostic.code[:3] for diagnostic in error.diagnostics)
    assert seen == {"read", "E01"}


def _check_spans(node: YamlNode, lines: list[str]) -> None:
    span = node.span
    assert 1 <= span.line <= len(lines) + 1
    assert 1 <= span.column <= span.end_column
    if span.line <= len(lines):
        assert span.end_column <= len(lines[span.line - 1]) + 2
    if isinstance(node, YamlList):
        for item in node.items:
            _check_spans(item, lines)
    elif isinstance(node, YamlMap):
        for entry in node.entries.values():
            _check_spans(entry.value, lines)


def file_code(path: Path) -> str:
    with pytest.raises(LlmcError) as caught:
        read_yaml_file(path, path.name)
    return caught.value.diagnostics[0].code


def test_files(tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text("a: 1\n")
    assert plain(read_yaml_file(good, "shown.yaml")) == {"a": 1}
    assert read_yaml_file(good, "shown.yaml").span.file == "shown.yaml"
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "large.yaml").write_bytes(b"#" * ((1 << 20) + 1))
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    found = {name: file_code(tmp_path / f"{name}.yaml") for name in ("fifo", "folder", "large", "absent", "loop")}
    assert found == {"fifo": "E0102", "folder": "E0102", "large": "E0104", "absent": "E0101", "loop": "E0103"}
    assert file_code(Path("/dev/zero")) == "E0102"
    assert file_code(good / "inside.yaml") == "E0101"
    assert file_code(Path("a\0b.yaml")) == "E0103"
    assert file_code(tmp_path / ("x" * 5000)) == "E0103"


def test_the_first_byte_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes("a: 1\né: ".encode() + b"\xe9\n")
    with pytest.raises(LlmcError) as caught:
        read_yaml_file(tmp_path / "x.yaml", "x.yaml")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E0105"
    assert str(diagnostic.span) == "x.yaml:2:4"
