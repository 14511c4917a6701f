"""README, DESIGN and CONTRIBUTING say what is there: their paths, snippets, commands and names exist."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

import llmc
from llmc.tools.cli import COMMANDS

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "DESIGN.md", "CONTRIBUTING.md")
FOLDERS = ("compiler", "kernels", "runtime", "specs", "tools", "tests")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = set(re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`", text)) | set(re.findall(r"\]\(([\w./-]+)\)", text))
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing


def test_the_layer_in_the_readme_is_the_one_in_the_spec() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    snippet = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)[0]
    spec = (ROOT / "specs" / "llama.yaml").read_text(encoding="utf-8")
    assert textwrap.dedent(snippet).strip() in textwrap.dedent(textwrap.indent(spec, "")).replace("\n  ", "\n").strip()


def test_commands_in_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    used = set(re.findall(r"(?:`|^    |&& |\$ )llmc ([a-z]+)", readme, re.MULTILINE))
    known = set(COMMANDS)
    assert used <= known
    assert {"build", "generate"} <= used


def test_the_python_names_exist() -> None:
    for name in ("load", "build", "check", "import_folder", "LlmcError", "__version__"):
        assert getattr(llmc, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = llmc.nonsense  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
