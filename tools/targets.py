"""What a TARGET of the command line names: a spec, a built folder, or a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..compiler.ops.declaration import Value

MANIFEST, SPEC = "manifest.json", "spec.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """The spec to compile with its params, and the folder it was found in, if it was."""

    spec: str | Path
    params: Mapping[str, Value]
    folder: Path | None = None
    is_built: bool = False
    origin: str = "--set"
    """What messages call the place that `params` are from."""


def locate(target: str, params: Mapping[str, Value] | None = None) -> Located:
    """A folder that `llmc build` wrote gives its spec.yaml; one with config.json the spec that describes it."""
    given = dict(params or {})
    folder = Path(target)
    if "\0" in target or not folder.is_dir():
        return Located(spec=target, params=given)
    if (folder / MANIFEST).is_file():
        from ..runtime.containment import inside

        inside(folder, SPEC)
        return Located(spec=folder / SPEC, params=given, folder=folder, is_built=True)
    if (folder / "config.json").is_file():
        from ..runtime.import_folder import import_folder

        imported = import_folder(folder)
        return Located(
            spec=imported.spec, params={**imported.params, **given}, folder=folder, origin=f"{folder}/config.json"
        )
    return Located(spec=target, params=given)
