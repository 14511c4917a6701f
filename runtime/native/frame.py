"""What a pass of compiled code runs with: its memory, its values, and the structs by which the code finds them."""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...compiler.axes import ambient_name
from ...compiler.native.source import NativeProgram
from ...compiler.ops.declaration import TensorType
from .abi import PassStruct
from .values import Arena, Values

_LINE = 64
"""Bytes of a cache line."""


class Memory:
    """What a program needs beside its parameters: it grows with the largest pass, and is used again by the next."""

    def __init__(self, native: NativeProgram, library: ctypes.CDLL) -> None:
        self._native, self._library = native, library
        self._floats: dict[str, Tensor] = {}
        self._workspace = torch.empty(0, dtype=torch.uint8)
        self.moves = 0
        """How often it has moved: what points into it is made anew then."""

    def arena(self, axis: str, rows: int) -> Arena:
        """Room for the values of so many rows, and for what lives within a call."""
        floats = rows * (self._native.values_floats + self._native.locals_floats) + 16
        if axis not in self._floats or self._floats[axis].numel() < floats:
            self.moves += 1
            with torch.inference_mode(False):
                self._floats[axis] = torch.empty(floats)
        return Arena(self._floats[axis], rows)

    @property
    def bytes(self) -> int:
        """Bytes of all of it."""
        return sum(floats.nbytes for floats in self._floats.values()) + self._workspace.nbytes

    def workspace(self, rows: int) -> int:
        """The address of what threads share within a product of at most so many rows. Asking again may move it."""
        if not self._native.widest:
            return 0
        size = self._library.llmc_linear_workspace(rows, self._native.widest) + _LINE
        if self._workspace.numel() < size:
            self.moves += 1
            self._workspace = torch.empty(size, dtype=torch.uint8)
        return -(-self._workspace.data_ptr() // _LINE) * _LINE


@dataclass(slots=True, kw_only=True)
class Frame:
    """One pass. `passes` are the structs by axis; `held` is what they point into."""

    values: Values
    passes: Mapping[str, PassStruct]
    held: list[object]


def make_frame(
    native: NativeProgram,
    types: Mapping[str, TensorType],
    dtype: torch.dtype,
    memory: Memory,
    *,
    axes: Iterable[str],
    sizes: Mapping[str, int],
    cache_type: int,
    sharing: int,
    ambient: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    without: Collection[str] = (),
) -> Frame:
    """A pass over the tokens of some axes.

    sizes: of `B` and of every axis; cache_type: of cached keys, as `numbers.h` counts; sharing: rows of the
    batch that read one row of what was given once; ambient: positions and lengths;
    given: values that lie outside the program's memory and exist already. Room is made for the others whose size is
    known, `without` some.
    """
    batch = sizes["B"]
    arenas = {axis: memory.arena(axis, batch * max(1, sizes.get(axis, 1))) for axis in axes}
    values = Values(types=types, slots=native.slots, arenas=arenas, sizes=sizes, dtype=dtype)
    for name in native.outside:
        if name in given:
            values.outside[name] = given[name].contiguous()
        elif name not in without and all(isinstance(dim, int) or dim in sizes for dim in types[name].shape):
            kind = torch.int64 if types[name].dtype == "int64" else torch.float32
            values.outside[name] = torch.empty(values.shape(name), dtype=kind)
    for name in given.keys() - values.outside.keys() - native.slots.keys():  # what only torch reads
        values.outside[name] = given[name]
    found = [values.outside.get(name) for name in native.outside]
    table = (ctypes.c_void_p * len(found))(*(x.data_ptr() if isinstance(x, Tensor) else None for x in found))
    held: list[object] = [table, *found]
    passes = {axis: _struct(native, axis, sizes, ambient, arena, held) for axis, arena in arenas.items()}
    workspace = memory.workspace(max(arena.rows for arena in arenas.values()))  # one for all: growing moves it
    for made in passes.values():
        made.inputs, made.workspace, made.cache_type = ctypes.addressof(table), workspace, cache_type
        made.sharing = sharing
    return Frame(values=values, passes=passes, held=held)


def _struct(
    native: NativeProgram,
    axis: str,
    sizes: Mapping[str, int],
    ambient: Mapping[str, Tensor],
    arena: Arena,
    held: list[object],
) -> PassStruct:
    """The struct of one axis; what it points into is added to `held`."""
    made = PassStruct()
    made.batch, made.tokens, made.rows = sizes["B"], sizes.get(axis, 1), sizes["B"] * sizes.get(axis, 1)
    made.values = arena.memory.data_ptr()
    made.locals = made.values + 4 * arena.rows * native.values_floats
    for name in ("position", "lengths"):
        if axis and ambient_name(name, axis) in ambient:
            tensor = ambient[ambient_name(name, axis)].contiguous()
            setattr(made, name, tensor.data_ptr())
            held.append(tensor)
    held.append(arena.memory)
    return made
