"""How a typed value lies in memory: how many rows it has, and what one row is."""

from __future__ import annotations

from math import prod
from typing import cast

from ...kernels.native.node import CType, NotNative, Rows
from ..ops.declaration import TensorType


def token_axis(found: TensorType) -> str:
    """Whose tokens the rows of a value are: the symbol of its second dimension; empty where it has none."""
    second = found.shape[1] if len(found.shape) > 1 else None
    return second if isinstance(second, str) else ""


def rows_of(found: TensorType) -> tuple[Rows, tuple[int, ...]]:
    """How many rows a type has, and the axes of one. Raises NotNative where it has no rows."""
    shape = found.shape
    if shape[:1] == ("B",) and token_axis(found) and all(isinstance(dim, int) for dim in shape[2:]):
        return "tokens", cast("tuple[int, ...]", shape[2:])
    if shape[:1] == ("B",) and all(isinstance(dim, int) for dim in shape[1:]):
        return "batch", cast("tuple[int, ...]", shape[1:])
    if all(isinstance(dim, int) for dim in shape) and shape:
        return "one", cast("tuple[int, ...]", shape)
    raise NotNative(f"a value of shape {found} has no rows")


def ctype_of(found: TensorType) -> CType:
    """The element type in C. Raises NotNative for those that have none."""
    if found.dtype in ("float", "float32"):
        return "float"
    if found.dtype == "int64":
        return "int64_t"
    raise NotNative(f"values of type {found.dtype} are not written in C")


def floats_of(shape: tuple[int, ...], ctype: CType) -> int:
    """Floats that one row takes."""
    return prod(shape) * (2 if ctype == "int64_t" else 1)
