"""Which calls run as one native call: maximal runs of those that were compiled, over the same tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

from ..axes import STREAM
from ..lowered import Module
from .slots import pass_axis
from .source import NativeProgram


@dataclass(frozen=True, slots=True)
class Region:
    """Consecutive calls that one native call runs: all of one rate, over the tokens of one axis."""

    first: int
    count: int
    axis: str = STREAM
    is_once: bool = False


Part: TypeAlias = "Region | int"
"""A region, or the number of a call that torch runs."""


def regions(module: Module, native: NativeProgram) -> tuple[Part, ...]:
    """The parts of a pass, in order."""
    found: list[Part] = []
    for index, call in enumerate(module.calls):
        if call.definition not in native.definitions:
            found.append(index)
            continue
        last, axis = found[-1] if found else None, pass_axis(call, native.definitions[call.definition])
        one = Region(index, 1, axis, call.rate == "once")
        if isinstance(last, Region) and (last.axis, last.is_once) == (one.axis, one.is_once):
            found[-1] = replace(last, count=last.count + 1)
        else:
            found.append(one)
    return tuple(found)
