"""The emitted module: its text for a small model, and that text from a spec cannot become code in it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import llmc
from llmc.compiler.emit import comment, emit, literal
from llmc.compiler.program import Program
from llmc.specs.packaged import packaged_names

HERE = Path(__file__).parent
SPEC = HERE / "emit" / "tiny.yaml"


def emitted(spec: str | Path, params: Mapping[str, int] | None = None) -> str:
    return emit(llmc.build(spec, params))


@pytest.mark.parametrize("name", ["tiny", "mixed"])
def test_text(name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMC_KERNELS", "0")
    text = emitted(HERE / "emit" / f"{name}.yaml")
    golden = HERE / "emit" / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        golden.write_text(text)
    assert text == golden.read_text()
    ast.parse(text)


def test_kernels_are_named() -> None:
    text = emitted(SPEC)
    assert any(line.endswith(" sdpa") for line in text.splitlines())


def test_depth_is_a_loop() -> None:
    shallow, deep = emitted(SPEC, {"num_layers": 3}), emitted(SPEC, {"num_layers": 30})
    assert len(shallow.splitlines()) == len(deep.splitlines())
    assert "for i in range(30):" in deep


@pytest.mark.parametrize("name", [n for n in packaged_names() if n.endswith(("_tiny", "small"))])
def test_every_family_is_valid_python(name: str) -> None:
    tree = ast.parse(emitted(name))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert functions[-1].name == "program"
    for function in functions:
        _only_defined_names(function, {f.name for f in functions})


def _only_defined_names(function: ast.FunctionDef, functions: set[str]) -> None:
    """Every name that is read was assigned before, is an argument, or is called."""
    known = {argument.arg for argument in function.args.args} | functions | {"range", "float"}
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            known.add(node.func.id)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            known.add(node.id)
    read = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert read <= known


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    lines = SPEC.read_text().splitlines()
    lines[2] = r'summary: "\"\"\"\nimport os #"'
    folder = tmp_path / 'a"""; import os #'
    folder.mkdir()
    path = folder / "b'''\\n;.yaml"
    path.write_text("\n".join(lines))
    tree = ast.parse(emitted(path))
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]


@pytest.mark.parametrize(
    "value", [None, True, 3, -0.5, 1e-5, float("inf"), "a'\"\n\\", [1, "x", None], {"a": 1, 'b"': [2]}, "\u2028", "é"]
)
def test_literals_read_back(value: object) -> None:
    text = literal(value)
    assert text.isascii()
    if value == float("inf"):
        assert text == "float('inf')"
    else:
        assert ast.literal_eval(text) == value


def test_what_is_no_literal_is_refused() -> None:
    with pytest.raises(TypeError):
        literal(object())


@pytest.mark.parametrize("text", ["a\nimport os", 'x"""', "\x1b[31m", "\u202e", "a\\"])
def test_comments_are_one_harmless_line(text: str) -> None:
    shown = comment(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert '"""' not in shown
    assert "\\" not in shown


def test_same_text_under_any_hash_seed() -> None:
    code = f"import llmc; from llmc.compiler.emit import emit; print(emit(llmc.build({str(SPEC)!r})))"
    texts = {
        subprocess.run(
            [sys.executable, "-P", "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


def test_places_do_not_depend_on_the_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = emitted("llama_tiny")
    monkeypatch.chdir(tmp_path)
    assert emitted("llama_tiny") == before
    assert "specs/llama.yaml:" in before


def test_program_is_a_program() -> None:
    assert isinstance(llmc.build(SPEC), Program)
