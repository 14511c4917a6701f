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


def test_compiler_kernels_and_runtime_know_no_model() -> None:
    """No identifier or string literal equals a family's name, or has it as a part; docstrings are exempt."""
    families = {
        "gpt2",
        "bert",
        "llama",
        "mistral",
        "phi",
        "phi3",
        "mamba",
        "deepseek",
        "rwkv7",
        "zamba2",
        "gemma3n",
        "litetorch",
    }
    wrong: list[str] = []
    for floor in ("compiler", "kernels", "runtime"):
        for path in sources(floor):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            docstrings = {
                id(node.body[0].value)
                for node in ast.walk(tree)
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
                and node.body
                and isinstance(node.body[0], ast.Expr)
            }
            docs = {
                id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)
            }
            for node in ast.walk(tree):
                text = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings | docs:
                    text = node.value
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                    text = node.name
                if set(text.split("_")) & families:
                    wrong.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} {text}")
    assert not wrong
