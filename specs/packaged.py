"""The specs that ship with llmc: their names and where they lie."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from .diagnostics import did_you_mean, fail, quoted
from .source import Span

SUFFIX = ".yaml"


def packaged_names() -> tuple[str, ...]:
    """The bare names (`llama2_7b`) of all packaged specs, sorted."""
    names = (entry.name for entry in files("llmc.specs").iterdir() if entry.is_file())
    return tuple(sorted(name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)))


def packaged_folder() -> Path:
    """Where the packaged specs lie."""
    return Path(str(files("llmc.specs")))


def packaged_path(name: str, span: Span | None = None) -> Path:
    """The file of a packaged spec. Raises LlmcError (at `span`, where one asks for it) with the nearest name."""
    path = packaged_folder() / (name + SUFFIX)
    is_name = name.isprintable() and len(name) < 200 and path.name == name + SUFFIX
    if not is_name or not path.is_file():
        remedy = did_you_mean(name, packaged_names()) or "`llmc list` names them; a path ends in .yaml"
        raise fail("E0140", f"there is no packaged spec named {quoted(name)}", span, help=remedy)
    return path
