"""What `llmc.load` is asked for, and what that stands for: a spec, params, a folder of weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..compiler.ops.declaration import Value
from ..specs.document import names_file
from .containment import find_inside, inside, read_json_object, require_folder
from .import_folder import import_folder
from .own_sources import PACKAGE

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The arguments of `load` that decide about the program and its weights."""

    target: str | Path
    weights: str | Path | None
    params: Mapping[str, Value]
    device: str
    dtype: str | None
    quantize: str | None

    def absolute(self) -> Request:
        """The same from any working folder."""
        is_path = names_file(self.target) or Path(self.target).is_dir()
        return Request(
            target=Path(self.target).absolute() if is_path else self.target,
            weights=None if self.weights is None else Path(self.weights).absolute(),
            params=dict(self.params),
            device=self.device,
            dtype=self.dtype,
            quantize=self.quantize,
        )

    def key(self) -> str:
        """Another one for every other request; of an absolute one."""
        parts = (os.fspath(PACKAGE), os.fspath(self.target), self.weights and os.fspath(self.weights))
        wanted = (*parts, sorted(self.params.items()), self.device, self.dtype, self.quantize)
        return hashlib.sha256(repr(wanted).encode("utf-8", "surrogateescape")).hexdigest()[:40]


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """What to compile, where its weights are, and its params with what messages call the place they are from."""

    spec: str | Path
    weights: Path | None
    params: Mapping[str, Value]
    origin: str = "params="


def locate(request: Request) -> Located:
    """What a request stands for. Params given by hand go before those of a folder."""
    target, params = request.target, request.params
    folder = None if request.weights is None else require_folder(Path(request.weights))
    path = Path(target)
    if not path.is_dir():
        return Located(spec=target, weights=folder, params=params)
    if find_inside(path, MANIFEST) is not None:
        manifest = read_json_object(path / MANIFEST, 1 << 20)
        recorded = manifest.get("weights")
        if folder is None and isinstance(recorded, str):
            folder = require_folder(path / recorded)
        inside(path, "spec.yaml")
        return Located(spec=path / "spec.yaml", weights=folder, params=params)
    imported = import_folder(path)
    given = {**imported.params, **params}
    return Located(spec=imported.spec, weights=folder or path, params=given, origin=f"{target}/config.json")
