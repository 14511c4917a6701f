"""Ops that write to a cache: sizes of the state as fields, and what they yield."""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Dim, Field, TensorType


def size_fields(*names: str) -> tuple[Field, ...]:
    """A field for each size of the state."""
    return tuple(Field(name=name, kind="int", doc="size of the state", is_required=True) for name in names)


def appended(batch: Dim, **parts: tuple[int, int]) -> Mapping[str, TensorType]:
    """The types of `state`, of each part `[batch, heads, S, dim]` by its `(heads, dim)`, and of `key_position`."""
    read = {name: TensorType(shape=(batch, heads, "S", dim)) for name, (heads, dim) in parts.items()}
    return {"state": TensorType(shape=()), **read, "key_position": TensorType(shape=(batch, "S"), dtype="int64")}
