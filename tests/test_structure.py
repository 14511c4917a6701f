"""The house keeps its shape: imports run downwards, packages are complete, names say something."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from llmc.compiler.ops import OPS
from llmc.compiler.ops.declaration import Op
from llmc.specs.packaged import packaged_names

ROOT = Path(__file__).parent.parent
FLOORS = ("specs", "kernels", "compiler", "runtime", "tools")
ALLOWED = {
    "specs": {"specs"},
    "kernels": {"kernels"},
    "compiler": {"compiler", "kernels", "specs"},
    "runtime": {"runtime", "compiler", "kernels", "specs"},
    "tools": {"tools", "runtime", "compiler", "kernels", "specs"},
}
TORCH_FREE = ("specs", "compiler/ops")
VAGUE = {"utils.py", "util.py", "common.py", "helpers.py", "helper.py", "base.py", "misc.py"}


def sources(folder: str) -> list[Path]:
    return sorted(p for p in (ROOT / folder).rglob("*.py") if "/.typing/" not in p.as_posix())


def imported_floors(path: Path) -> Iterator[tuple[str, int]]:
    """The floors that a file imports, with the line: relative imports are resolved, `llmc.x` is x."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
                target = (*base, *(node.module or "").split("."))
            else:
                parts = (node.module or "").split(".")
                target = tuple(parts[1:]) if parts[0] == "llmc" else ()
            if target and target[0] in FLOORS:
                yield target[0], node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "llmc" and len(parts) > 1:
                    yield parts[1], node.lineno


@pytest.mark.parametrize("floor", FLOORS)
def test_arrows_run_downwards(floor: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for path in sources(floor)
        for target, line in imported_floors(path)
        if target not in ALLOWED[floor]
    ]
    assert not wrong


def test_every_code_folder_is_a_package() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        ".".join(("llmc", *path.parent.relative_to(ROOT).parts)) for floor in FLOORS for path in sources(floor)
    } | {"llmc"}
    assert found == listed


def test_files_say_what_they_are() -> None:
    for floor in FLOORS:
        for path in sources(floor):
            assert path.name not in VAGUE, path
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or not path.read_text().strip(), path


def test_no_file_is_two_ideas() -> None:
    long = [
        p
        for floor in FLOORS
        for p in sources(floor)
        if p.name != "codes.py" and len(p.read_text(encoding="utf-8").splitlines()) > 450
    ]
    assert not long


def test_every_op_is_one_file() -> None:
    """`compiler/ops/<op>.py` declares `<OP>`, and no other op; what several share is in files that declare none."""
    declared: dict[str, list[str]] = {}
    for path in sources("compiler/ops"):
        module = import_module(f"llmc.compiler.ops.{path.stem}" if path.stem != "__init__" else "llmc.compiler.ops")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
        names = [t.id for t in targets if isinstance(t, ast.Name)]
        declared[path.stem] = [name for name in names if isinstance(getattr(module, name), Op)]
    assert {stem: names for stem, names in declared.items() if names} == {op.name: [op.name.upper()] for op in OPS}


def test_the_root_imports_nothing() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text())
    assert all(isinstance(node, (ast.Expr, ast.FunctionDef)) for node in tree.body)


def test_untrusted_text_is_never_run() -> None:
    """No eval, exec, pickle or torch.load in what ships."""
    wrong: list[str] = []
    for floor in FLOORS:
        for path in sources(floor):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
                    wrong.append(f"{path}:{node.lineno}")
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
                    if any(name.split(".")[0] in ("pickle", "marshal", "shelve") for name in names):
                        wrong.append(f"{path}:{node.lineno}")
                if isinstance(node, ast.Attribute) and node.attr == "load" and ast.unparse(node.value) == "torch":
                    wrong.append(f"{path}:{node.lineno}")
    assert not wrong


def test_checking_imports_no_torch() -> None:
    code = (
        "import sys; from llmc.compiler.pipeline import check; check('llama2_7b'); "
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=60)


def test_importing_llmc_costs_nothing() -> None:
    code = "import sys; import llmc; assert not {'torch', 'yaml', 'networkx', 'jsonschema'} & set(sys.modules)"
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=60)


ORDINARY = {
    "command": "a command line, e.g. that of a C compiler",
    "llama3": "the name of a RoPE scaling, in the field and in config.json",
    "opt": "short for optional: opt_int",
    "small": "a size",
    "ssm": "state-space model, a term of the literature",
}
"""First words of packaged specs' names that code may use all the same, and why."""


def families() -> set[str]:
    """The first word of each packaged spec's name, with and without its version: qwen3 and qwen."""
    words = {name.split("_")[0] for name in packaged_names()}
    stems = {word.rstrip("0123456789") for word in words}
    return (words | {stem for stem in stems if len(stem) > 2}) - ORDINARY.keys()


def named(node: ast.AST) -> list[str]:
    """The identifiers and the string that stand at a node itself."""
    match node:
        case ast.Name():
            return [node.id]
        case ast.Attribute():
            return [node.attr]
        case ast.FunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.arg():
            return [node.arg]
        case ast.keyword():
            return [node.arg or ""]
        case ast.alias():
            return [*node.name.split("."), node.asname or ""]
        case ast.Constant() if isinstance(node.value, str):
            return [node.value]
        case _:
            return []


def models_named(source: str, known: set[str]) -> list[str]:
    """`line text` of each identifier and string that is a family's name or has it as a part between underscores.

    Docstrings are exempt, and so is prose in a string.
    """
    tree = ast.parse(source)
    docstrings = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
    return [
        f"{getattr(node, 'lineno', 0)} {text}"
        for node in ast.walk(tree)
        if id(node) not in docstrings
        for text in named(node)
        if set(text.lower().split("_")) & known
    ]


@pytest.mark.parametrize("floor", ["compiler", "kernels", "runtime"])
def test_compiler_kernels_and_runtime_know_no_model(floor: str) -> None:
    known = families()
    wrong = [
        f"{path.relative_to(ROOT)}:{found}"
        for path in sources(floor)
        for found in (*models_named(path.read_text(encoding="utf-8"), known), *(known & set(path.stem.split("_"))))
    ]
    assert not wrong


def test_a_model_named_in_code_is_found() -> None:
    assert {"llama", "gpt", "gpt2", "qwen", "zamba2", "mixtral"} <= families()
    assert all(word in {name.split("_")[0] for name in packaged_names()} for word in ORDINARY)
    for source in (
        "is_llama = 1",
        "x.gpt2_bias",
        "f(mixtral=1)",
        "import a.qwen3",
        "kind == 'zamba2'",
        "class Bert: 0",
    ):
        assert models_named(source, families()), source
    for source in ('"""llama"""', "opt_int(1)", "scaling == 'llama3'", "doc = 'as in Gemma 2'", "llamas = 1"):
        assert not models_named(source, families()), source
