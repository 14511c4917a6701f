"""Where the values lie that calls hand to each other: in memory of the pass, or outside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...kernels.native.node import NotNative
from ..axes import STREAM
from ..ir import Call
from ..lowered import Module
from ..ops.declaration import TensorType
from .buffers import Buffer, place
from .definition import NativeDefinition
from .layout import ctype_of, floats_of, rows_of
from .sharing import Sharing, part_rows


@dataclass(frozen=True, slots=True)
class Slot:
    """Whose tokens the rows of a value are, and the floats a row that lie before it."""

    axis: str
    floats: int


def values_read(call: Call) -> list[str]:
    """Every program value that a call reads."""
    return [v for value in call.inputs.values() for v in (value if isinstance(value, tuple) else (value,))]


def pass_axis(call: Call, definition: NativeDefinition) -> str:
    """Whose tokens a pass over a call runs over; empty where a call that runs once reads none."""
    return definition.axis or (STREAM if call.rate == "stream" else "")


def place_values(
    module: Module, definitions: Mapping[str, NativeDefinition], caches: Sharing
) -> tuple[dict[str, Slot], int, list[str]]:
    """A place for every value that a compiled call reads or writes, the floats a row of all, and the values that lie
    outside because they are kept between passes or read on two axes."""
    values = [_Value(name, port, at) for at, call in enumerate(module.calls) for port, name in call.outputs.items()]
    by_name = {value.name: value for value in values if value.name not in module.outputs.values()}
    for at, call in enumerate(module.calls):
        for name in values_read(call):
            if name in by_name:
                by_name[name].calls.append(at)
    crossing: list[str] = []
    buffers: dict[str, dict[str, Buffer]] = {}
    for name, value in by_name.items():
        calls = [module.calls[at] for at in (value.first, *value.calls)]
        compiled = [call for call in calls if call.definition in definitions]
        axes = {pass_axis(call, definitions[call.definition]) for call in compiled}
        floats = _row_floats(module, value, caches) if compiled else None
        if floats is None:
            continue
        if len({call.rate for call in calls}) > 1 or len(axes) > 1:
            crossing.append(name)
            continue
        last = max(value.calls, default=value.first)
        buffers.setdefault(axes.pop(), {})[name] = Buffer(name=name, floats=floats, first=value.first, last=last)
    widest = max((place(found.values()) for found in buffers.values()), default=0)
    slots = {name: Slot(axis, found.offset) for axis, named in buffers.items() for name, found in named.items()}
    return slots, widest, crossing


@dataclass(slots=True)
class _Value:
    """What a call gives to others: its name in the program and in the call, the call, and those that read it."""

    name: str
    port: str
    first: int
    calls: list[int] = field(default_factory=list[int])


def _row_floats(module: Module, value: _Value, caches: Sharing) -> int | None:
    """Floats of a row of a value; None where C has no place for it."""
    definition = module.calls[value.first].definition
    lowered = module.definitions[definition]
    found: TensorType | None = lowered.results[lowered.outputs.index(value.port)].meta["type"]
    part = caches.lent.get(definition, {}).get(value.port)
    if part is not None:
        found = part_rows(part.spec, part.name)
    try:
        return None if found is None else floats_of(rows_of(found)[1], ctype_of(found))
    except NotNative:
        return None
