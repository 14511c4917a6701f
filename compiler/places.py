"""How what is emitted names a place in a spec: the same wherever and whenever it is built."""

from __future__ import annotations

from pathlib import Path

from ..specs.packaged import packaged_folder
from ..specs.source import Span


class Places:
    """Places as the artifact names them: packaged specs as `specs/NAME.yaml`, others from the built spec's folder."""

    def __init__(self, document: Path) -> None:
        self.packaged = packaged_folder().resolve()
        self.folder = document.resolve().parent
        self.shown: dict[str, str] = {}

    def at(self, span: Span) -> str:
        if span.file not in self.shown:
            self.shown[span.file] = self._name(span.file)
        return f"{self.shown[span.file]}:{span.line}"

    def _name(self, file: str) -> str:
        path = Path(file).resolve()
        if path.is_relative_to(self.packaged):
            return f"specs/{path.relative_to(self.packaged).as_posix()}"
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else path.name
