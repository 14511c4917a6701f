"""A spec as the compiler reads it: the file that was named, merged over the files that it extends.

A target without a path separator and without .yaml is a packaged spec. `extends:` takes a bare name (a file beside
this one, else a packaged spec) or a relative path that stays inside the folder of its file.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from .diagnostics import LlmcError, Note, fail, quoted
from .merge import merge_specs
from .packaged import SUFFIX, packaged_names, packaged_path
from .source import Span, YamlMap, YamlScalar
from .yaml_reader import read_yaml_file

MAX_CHAIN = 8

_SUFFIXES = (".yaml", ".yml")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
"""One part of an `extends:` path: no `..`, no look-alike dots or slashes, nothing that a shell or a disk expands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A spec after `extends`. `chain` names its files, the child first; the last one extends nothing. `files` are
    where they lie."""

    path: Path
    display: str
    root: YamlMap
    chain: tuple[str, ...]
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    path: Path
    display: str
    root: YamlMap
    extends_span: Span | None


def load_document(target: str | Path) -> Document:
    """The spec at a path, or the packaged spec of that name, merged over what it extends. Raises LlmcError."""
    path = _target_path(target)
    files = [_read(path)]
    while files[-1].extends_span is not None:
        files.append(_read(_parent_path(files[-1])))
        _check_chain(files)
    root = files[-1].root
    for file in reversed(files[:-1]):
        root = merge_specs(root, _without_extends(file.root))
    return Document(
        path=path,
        display=files[0].display,
        root=root,
        chain=tuple(file.display for file in files),
        files=tuple(file.path for file in files),
    )


def names_file(target: str | Path) -> bool:
    """Whether a target is a path; else it is the name of a packaged spec."""
    separators = ("/", "\\") if os.name == "nt" else ("/",)
    return not isinstance(target, str) or target.endswith(_SUFFIXES) or any(one in target for one in separators)


def _target_path(target: str | Path) -> Path:
    if isinstance(target, str) and (not target or "\0" in target):
        raise fail("E0141", f"{quoted(target)} names no spec", help="give a path or the name of a packaged spec")
    return Path(target) if names_file(target) else packaged_path(str(target))


def _display(path: Path) -> str:
    """The path from the working folder where it lies inside, else as it was given."""
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return path.as_posix()


def _read(path: Path) -> _File:
    display = _display(path)
    root = read_yaml_file(path, display)
    extends = root.get("extends")
    return _File(path=path, display=display, root=root, extends_span=None if extends is None else extends.span)


def _without_extends(root: YamlMap) -> YamlMap:
    return YamlMap(entries={key: e for key, e in root.entries.items() if key != "extends"}, span=root.span)


def _parent_path(file: _File) -> Path:
    """The file that `extends:` names. Nothing is opened here, and nothing outside the folder is ever returned."""
    extends = file.root.get("extends")
    value = extends.value if isinstance(extends, YamlScalar) else None
    if not isinstance(value, str):
        remedy = "write `extends: llama` or `extends: base.yaml`"
        raise fail("E0130", "`extends` takes one name or path", file.extends_span, help=remedy)
    parts = value.removeprefix("./").split("/")
    if not all(_PART.fullmatch(part) and not part.endswith(".") for part in parts):
        raise _outside(value, file)
    if value.endswith(_SUFFIXES):
        return _inside(file, value)
    if len(parts) > 1:
        remedy = f"a path ends in {SUFFIX}; the name of a packaged spec has no /"
        raise fail("E0132", f"{quoted(value)} is neither a name nor a path", file.extends_span, help=remedy)
    beside = file.path.parent / (value + SUFFIX)
    is_itself = beside.resolve() == file.path.resolve() and value in packaged_names()
    if os.path.lexists(beside) and not is_itself:
        return _inside(file, value + SUFFIX)
    return packaged_path(value, file.extends_span)


def _inside(file: _File, relative: str) -> Path:
    """The path below the file's own folder, after links are followed."""
    folder = file.path.parent
    path = folder / relative
    try:
        is_inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a loop of links
        is_inside = False
    if not is_inside:
        raise _outside(relative, file)
    if not path.exists():
        remedy = "put it beside this file, or extend a packaged spec by its name"
        raise fail("E0132", f"there is no file {quoted(_display(path))}", file.extends_span, help=remedy)
    return path


def _outside(value: str, file: _File) -> LlmcError:
    message = f"`extends` cannot follow {quoted(value)}: a path stays inside the folder of its file"
    remedy = "write a relative path such as `base.yaml` or `parts/base.yaml`, or the name of a packaged spec"
    return fail("E0131", message, file.extends_span, help=remedy)


def _check_chain(files: list[_File]) -> None:
    """Refuses a last file that is among the earlier ones, and a chain that is too long."""
    latest = files[-1]
    span = files[-2].extends_span
    notes = [Note(text=f"{quoted(f.display)} extends the next", span=f.extends_span) for f in files[:-2]]
    if any(file.path.resolve() == latest.path.resolve() for file in files[:-1]):
        raise fail("E0133", f"{quoted(latest.display)} extends itself", span, notes=notes, help="break the circle")
    if len(files) > MAX_CHAIN:
        raise fail("E0134", f"more than {MAX_CHAIN} specs extend one another", span, notes=notes)
