"""Which calls run as one native call: maximal runs of those that were compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ..lowered import Module
from .source import NativeProgram


@dataclass(frozen=True, slots=True)
class Region:
    """Consecutive calls that one native call runs."""

    first: int
    count: int


Part: TypeAlias = "Region | int"
"""A region, or the number of a call that torch runs."""


def regions(module: Module, native: NativeProgram) -> tuple[Part, ...]:
    """The parts of a pass, in order."""
    found: list[Part] = []
    for index, call in enumerate(module.calls):
        last = found[-1] if found else None
        if call.definition not in native.definitions:
            found.append(index)
        elif isinstance(last, Region):
            found[-1] = Region(last.first, last.count + 1)
        else:
            found.append(Region(index, 1))
    return tuple(found)
