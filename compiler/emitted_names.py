"""The identifiers of an emitted module: no two values of a function have one, and none is a keyword or an op."""

from __future__ import annotations

import keyword
from collections.abc import Iterable

from .lowered import identifier


class Names:
    """Gives every value of a function an identifier of its own."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.taken = set(taken) | {"program", "bound", "i"}

    def copy(self) -> Names:
        return Names(self.taken)

    def new(self, wanted: str) -> str:
        name = identifier(wanted)
        while name in self.taken or keyword.iskeyword(name):
            name += "_"
        assert name.isidentifier(), name
        self.taken.add(name)
        return name
