"""What has been written of a definition: its steps in order, the memory they use, and what they call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import fx

from ...kernels.native.node import CacheView, CType, Place, Rows, StateBuffers
from ..lowered import Lowered
from .buffers import Buffer
from .sharing import Borrowed, Part, buffer_count

Known: TypeAlias = "Place | CacheView"


AS_THEY_ARE = ("stored", "float32")
"""Formats of parameters that are not packed."""


@dataclass(frozen=True, slots=True)
class Operand:
    """A parameter that the C function takes: a placeholder of the definition, in a format. `float32`: converted;
    `stored`: as it is; else packed, and then `is_pair` where its rows are a gate and an up half, `is_in_out` where its
    matrices lie input by input. `part`: of a formula over several tensors, the number of the one; None: all of them as
    one."""

    placeholder: str
    format: str
    is_pair: bool = False
    is_in_out: bool = False
    part: int | None = None


@dataclass(slots=True)
class Step:
    """A loop over rows of a kind, or where that is None a region that all threads run."""

    rows: Rows | None
    text: str


@dataclass(slots=True)
class Body:
    """The definition, and what there is of it in C. `formats` are those of its packed parameters."""

    lowered: Lowered
    formats: Mapping[str, str]
    axis: str
    """Whose tokens its rows are; empty where it has none."""
    lent: Mapping[str, Part]
    """Its outputs that are parts of a cache of its own."""
    borrowed: Sequence[Borrowed]
    """The caches that it reads of other calls."""
    steps: list[Step] = field(default_factory=list[Step])
    buffers: dict[str, Buffer] = field(default_factory=dict[str, Buffer])
    ctypes: dict[str, CType] = field(default_factory=dict[str, CType])
    """The element type of each buffer."""
    known: dict[fx.Node, Known] = field(default_factory=dict[fx.Node, Known])
    parameters: list[Operand] = field(default_factory=list[Operand])
    constants: list[str] = field(default_factory=list[str])
    headers: dict[str, None] = field(default_factory=dict[str, None])
    sources: dict[str, None] = field(default_factory=dict[str, None])
    widest: int = 0
    """Inputs of the widest matrix so far."""

    def add_row(self, text: str, rows: Rows) -> None:
        """Work on one row; it joins the last loop where that runs over the same rows."""
        if self.steps and self.steps[-1].rows == rows:
            self.steps[-1].text += text
        else:
            self.steps.append(Step(rows, text))

    def add_region(self, text: str) -> None:
        """Work that the threads share among themselves."""
        self.steps.append(Step(None, text))

    def new_buffer(self, floats: int, ctype: CType) -> str:
        """Memory of `floats` a row for what is written next, be that joined to the last step or a step of its own."""
        name, at = f"b{len(self.buffers)}", len(self.steps)
        self.buffers[name] = Buffer(name=name, floats=floats, first=max(0, at - 1), last=at)
        self.ctypes[name] = ctype
        return name

    def keep(self, names: Iterable[str]) -> None:
        """These buffers are alive in the last step; memory of the caller always is."""
        for name in names:
            if name in self.buffers:
                self.buffers[name].last = max(self.buffers[name].last, len(self.steps) - 1)

    def state(self, name: str) -> StateBuffers:
        """The buffers of a state of its own. One that is lent gets its new rows from the last call that reads it."""
        is_lent = any(part.state == name for part in self.lent.values())
        return self._state(list(self.lowered.states).index(name), "0" if is_lent else "1")

    def borrowed_state(self, number: int) -> StateBuffers:
        """The buffers of a state that another call keeps."""
        return self._state(len(self.lowered.states) + number, f"call->stores[{number}]")

    def _state(self, number: int, stores: str) -> StateBuffers:
        specs = [*(spec for _, spec in self.lowered.states.values()), *(cache.spec for cache in self.borrowed)]
        first, count = sum(map(buffer_count, specs[:number])), buffer_count(specs[number])
        return StateBuffers(
            pointers=tuple(f"call->states[{first + i}]" for i in range(count)),
            slots=f"call->slots[{first}]",
            kind=specs[number].kind,
            sizes=specs[number].sizes,
            stores=stores,
        )

    def parameter(self, operand: Operand) -> str:
        """The C expression of a parameter's address."""
        if operand not in self.parameters:
            self.parameters.append(operand)
        return f"call->parameters[{self.parameters.index(operand)}]"


def buffers_of(values: Iterable[Known]) -> list[str]:
    """The buffers in which values lie."""
    places = [one for value in values for one in (value.new if isinstance(value, CacheView) else (value,))]
    return [one.buffer for one in places]
