"""What an emitter of C sees of one node: its operands as places in memory, its fields, and where to write its code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, TypeVar, cast

Rows: TypeAlias = Literal["tokens", "batch", "one"]
"""How many rows a value has: one per token (`B * T`), one per row of the batch, or one for all."""

ROW_COUNTS: Mapping[Rows, str] = {"tokens": "pass->rows", "batch": "pass->batch", "one": "1"}
"""The same in C."""

CType: TypeAlias = Literal["float", "int64_t"]
Record = TypeVar("Record")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A value in C, row-major: element `j` of row `r` is `pointer[r * stride + j]`. Floats are float32."""

    pointer: str
    shape: tuple[int, ...]
    """The axes of one row."""
    stride: int
    rows: Rows = "tokens"
    ctype: CType = "float"
    buffer: str = ""
    """The buffer whose memory this is; empty for operands that the caller owns."""

    @property
    def width(self) -> int:
        """Elements in a row."""
        width = 1
        for size in self.shape:
            width *= size
        return width

    @property
    def count(self) -> str:
        """The C expression of how many rows it has."""
        return ROW_COUNTS[self.rows]

    @property
    def is_dense(self) -> bool:
        """Whether its rows follow one another without gaps."""
        return self.stride == self.width

    def row(self, row: str = "r") -> str:
        """The C expression of a row's first element; a value with one row has it for all."""
        if self.rows == "one" or self.stride == 0:
            return self.pointer
        return f"{self.pointer} + {row} * {self.stride}"

    def part(self, start: int, shape: tuple[int, ...]) -> Place:
        """Some elements of every row, in place."""
        pointer = f"({self.pointer} + {start})" if start else self.pointer
        return Place(
            pointer=pointer, shape=shape, stride=self.stride, rows=self.rows, ctype=self.ctype, buffer=self.buffer
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A parameter as it lies in memory: `pointer` is a `const void *` in C, `format` its element type or packing."""

    pointer: str
    shape: tuple[int, ...]
    format: str
    parts: tuple[tuple[str, int], ...] = ()
    """Where its rows lie in several places: the pointer of each part, and how many rows it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateBuffers:
    """The buffers of a state in C and the size of their token axis, with the law by which a position has a slot."""

    pointers: tuple[str, ...]
    slots: str
    kind: str
    sizes: Mapping[str, int]
    stores: str = "1"
    """The C condition under which this node stores the call's new rows. A cache that others read after it is left as it
    was until the last of them, because in a ring new rows take the place of old ones that those still see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheView:
    """Keys and values that an append gives to the attention after it: the state, and the call's own new rows (none
    where no call adds any)."""

    state: StateBuffers
    new: tuple[Place, ...]


class NativeNode(Protocol):
    """One node, as its emitter sees it. Code of a row runs for row `r` of its kind; a region is run by all threads."""

    @property
    def path(self) -> str: ...
    @property
    def op(self) -> str: ...

    def has(self, name: str) -> bool:
        """Whether an optional port or parameter is given."""
        ...

    def input(self, name: str) -> Place:
        """A port's value, or a parameter as float32."""
        ...

    def inputs(self, name: str) -> Sequence[Place]:
        """The values of a variadic port."""
        ...

    def view(self, name: str) -> CacheView:
        """The cache that a port reads."""
        ...

    def weight(
        self,
        name: str,
        *,
        is_pair: bool = False,
        is_in_out: bool = False,
        packing: str | None = None,
        takes_parts: bool = False,
    ) -> Weight:
        """A parameter in the format in which it is stored or packed; `is_pair`: its rows are a gate and an up half;
        `is_in_out`: its matrices lie input by input, unless they are packed; `packing`: the format that the op demands;
        `takes_parts`: its rows may lie in several places."""
        ...

    def field(self, name: str) -> object:
        """The value that the reference would be called with."""
        ...

    def number(self, name: str) -> str:
        """A numeric field as a C expression: a literal, or this call's own scalar."""
        ...

    def state(self) -> StateBuffers:
        """The state this node threads."""
        ...

    def output(self, port: str = "out") -> Place:
        """A fresh buffer for an output."""
        ...

    def alias(self, port: str, place: Place | CacheView) -> None:
        """An output that is memory which exists already."""
        ...

    def workspace(self, floats: int) -> str:
        """The pointer of a buffer of this node's own, `floats` per row, for what regions hand to each other."""
        ...

    def matrix_workspace(self, inputs: int) -> str:
        """Memory that matrix products with so many inputs share, as a pointer."""
        ...

    def constant(self, name: str, values: Sequence[float]) -> str:
        """The name of a constant float array."""
        ...

    def row(self, text: str, *, rows: Rows = "tokens") -> None:
        """Statements for one row; those of neighbouring nodes are joined in one loop."""
        ...

    def region(self, text: str) -> None:
        """Statements that every thread runs: calls of kernels, each a parallel region or several."""
        ...


def fields_of(node: NativeNode, record: type[Record]) -> Record:
    """The fields of a node by the names and types of its reference's record. Each is asked for as it is read, so that
    one which the emitter leaves out is noticed; tensors and fields that may be scalars are not read this way."""
    del record
    return cast("Record", _Fields(node))


class _Fields:
    def __init__(self, node: NativeNode) -> None:
        self._node = node

    def __getattr__(self, name: str) -> object:
        return self._node.field(name)


class NotNative(Exception):
    """Why a node has no code in C: the reason, and the path of the node."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.reason, self.path = reason, path


def literal(value: float) -> str:
    """A Python number as a C double."""
    if value != value:
        return '__builtin_nan("")'
    if value in (float("inf"), float("-inf")):
        return "__builtin_inf()" if value > 0 else "-__builtin_inf()"
    return repr(float(value))
