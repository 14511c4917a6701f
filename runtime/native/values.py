"""What calls hand to each other, seen from torch: views of the program's memory, and what has no place in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from ...compiler.native.slots import Slot
from ...compiler.ops.declaration import TensorType


@dataclass(frozen=True, slots=True)
class Arena:
    """The memory of a pass over the tokens of one axis, and how many rows it is laid out for."""

    memory: Tensor
    rows: int


@dataclass(slots=True, kw_only=True)
class Values:
    """The values of one pass. Those with a slot lie in the arena of its axis; `outside` holds inputs and outputs of the
    model and all the others. `sizes` are those of the symbols in types."""

    types: Mapping[str, TensorType]
    slots: Mapping[str, Slot]
    arenas: Mapping[str, Arena]
    sizes: Mapping[str, int]
    dtype: torch.dtype
    outside: dict[str, object] = field(default_factory=dict[str, object])

    def shape(self, name: str) -> tuple[int, ...]:
        """The axes of a value in this pass."""
        return tuple(dim if isinstance(dim, int) else self.sizes[dim] for dim in self.types[name].shape)

    def view(self, name: str) -> Tensor:
        """A value of the arena, in place: float32, or int64."""
        found, shape = self.types[name], self.shape(name)
        arena = self.arenas[self.slots[name].axis]
        start = self.slots[name].floats * arena.rows
        if found.dtype == "int64":
            return arena.memory[start : start + 2 * prod(shape)].view(torch.int64).view(shape)
        return arena.memory[start : start + prod(shape)].view(shape)

    def read(self, name: str) -> object:
        """A value as torch's kernels take it, floats in the model's dtype."""
        value = self.outside[name] if name in self.outside else self.view(name)
        if isinstance(value, Tensor) and self.types[name].dtype == "float" and value.is_floating_point():
            return value.to(self.dtype)
        return value

    def write(self, name: str, value: object) -> None:
        """Keep what torch computed where compiled code will look for it."""
        held = self.outside.get(name)
        if isinstance(held, Tensor) and isinstance(value, Tensor):
            held.copy_(value)
        elif name in self.slots and isinstance(value, Tensor):
            self.view(name).copy_(value)
        else:
            self.outside[name] = self.owned(value) if isinstance(value, Tensor) else value

    def owned(self, value: Tensor) -> Tensor:
        """What torch computed, as memory of its own: where it is a view of the program's, that will be used again."""
        own = value.untyped_storage().data_ptr()
        is_lent = any(arena.memory.untyped_storage().data_ptr() == own for arena in self.arenas.values())
        return value.clone() if is_lent else value
