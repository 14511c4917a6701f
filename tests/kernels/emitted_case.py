"""A case of a kernel in C: an op with static shapes, and random operands for it, however many tokens there are."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import torch
from torch import Tensor

from llmc.compiler.ops import OP_INDEX
from llmc.kernels.native.node import CType, Rows
from llmc.kernels.registry import resolve_reference

Draw: TypeAlias = "Callable[[tuple[int, ...], torch.Generator], Tensor]"
Given: TypeAlias = "dict[str, object]"
"""What a reference is called with."""
Found: TypeAlias = "tuple[tuple[Tensor, ...], tuple[Tensor, ...]]"
"""Outputs, and states."""
LEADING: Mapping[Rows, int] = {"tokens": 2, "batch": 1, "one": 0}
"""Axes of a value before those of a row."""


def normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Numbers around zero."""
    return torch.randn(shape, generator=generator)


@dataclass(frozen=True, kw_only=True, eq=False)
class Value:
    """A computed operand: so many numbers stand between its rows."""

    shape: tuple[int, ...]
    rows: Rows = "tokens"
    gap: int = 0
    draw: Draw = normal
    ctype: CType = "float"


@dataclass(frozen=True, kw_only=True, eq=False)
class Parameter:
    """A parameter, of numbers that the case's type can hold, and that `packed`, a format, keeps as they are."""

    shape: tuple[int, ...]
    draw: Draw = normal
    packed: str = ""


@dataclass(frozen=True, eq=False)
class Scalar:
    """A number that each call brings."""

    value: float


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """The buffers of a state, `[batch, *shape]` each; `slots` is the size of their token axis. -1: as many as the call
    has tokens."""

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    sizes: Mapping[str, int] = field(default_factory=dict[str, int])
    dtypes: tuple[torch.dtype, ...] = (torch.float32,)
    slots: int = 0


Operands: TypeAlias = Mapping[str, object]
"""Operands by name: those above, a tuple of values, or a field's plain value."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One op with static shapes. `before` makes the cache that it reads; `reference` takes the operands of both."""

    op: str
    operands: Operands
    rows: Rows = "tokens"
    ports: tuple[str, ...] = ("out",)
    dtype: torch.dtype = torch.float32
    before: tuple[str, Operands] | None = None
    reference: Callable[[Given, Given], Found] | None = None
    tolerance: float = 3e-6
    state_tolerance: float = 3e-6
    rounds_values: bool = False
    """Computed operands hold numbers of the case's type, so that keeping them does not round."""

    @property
    def nodes(self) -> tuple[tuple[str, Operands], ...]:
        """The nodes in order."""
        return (*([self.before] if self.before else []), (self.op, self.operands))

    def expected(self, before: Given, given: Given) -> Found:
        """What the definition gives."""
        if self.reference is not None:
            return self.reference(before, given)
        found = reference_of(self.op)(**given)
        if "state" in given:
            out, states = cast("tuple[Tensor, tuple[Tensor, ...]]", found)
            return (out,), tuple(states)
        return (found,) if isinstance(found, Tensor) else tuple(cast("Sequence[Tensor]", found)), ()


def reference_of(op: str) -> Callable[..., object]:
    """The definition of an op."""
    return resolve_reference(OP_INDEX[op].reference)


@dataclass(kw_only=True)
class Sample:
    """Random operands of one call. `stored`: each as float32 or int64, by its operand."""

    position: Tensor
    lengths: Tensor
    stored: dict[object, Tensor]
    before: Given
    given: Given


def sample(
    case: Case, lengths: Tensor, tokens: int, generator: torch.Generator, states: Mapping[object, Sequence[Tensor]]
) -> Sample:
    """Operands for `tokens` tokens a row, padding among them, where `lengths` `[B]` are held already.

    states: what they hold before the call, zeros where it is not said. The reference's operands are float64.
    """
    is_token = torch.rand(len(lengths), tokens, generator=generator) > 0.2
    position = torch.where(is_token, lengths[:, None] + is_token.cumsum(1) - 1, -1)
    stored: dict[object, Tensor] = {}

    def made(operand: object) -> object:
        match operand:
            case Value():
                leading = (len(lengths), tokens)[: LEADING[operand.rows]]
                x = operand.draw((*leading, *operand.shape), generator)
                x = x.to(case.dtype).float() if case.rounds_values else x
            case Parameter():
                x = operand.draw(operand.shape, generator).to(case.dtype).float()
            case Scalar():
                return operand.value
            case State():
                held = states.get(operand)
                if held is None:
                    dtypes = operand.dtypes * (len(operand.shapes) // len(operand.dtypes))
                    sizes = [(len(lengths), *map(abs, shape)) for shape in operand.shapes]
                    held = [torch.zeros(size, dtype=dtype) for size, dtype in zip(sizes, dtypes, strict=True)]
                return tuple(x.double() if x.is_floating_point() else x.clone() for x in held)
            case tuple() if operand and isinstance(operand[0], Value):
                return [made(one) for one in cast("tuple[object, ...]", operand)]
            case _:
                return operand
        stored[operand] = x
        return x.double() if x.is_floating_point() else x

    both: list[Given] = []
    for op, operands in case.nodes:
        wanted = inspect.signature(reference_of(op)).parameters
        ambient: Given = {"position": position, "lengths": lengths}
        given = {name: value for name, value in ambient.items() if name in wanted}
        both.append(given | {name: made(operand) for name, operand in operands.items()})
    before = both[0] if len(both) > 1 else {}
    return Sample(position=position, lengths=lengths, stored=stored, before=before, given=both[-1])
