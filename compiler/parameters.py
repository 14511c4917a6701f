"""What a parameter of a compiled graph is: a formula over the tensors of the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the model. `path` is relative to the instance: `self_attn.q_proj` and `weight`."""

    node: str
    name: str
    shape: tuple[int, ...]

    @property
    def path(self) -> str:
        return f"{self.node}.{self.name}" if self.name else self.node


@dataclass(frozen=True, slots=True)
class Concat:
    """Tensors stacked along their first axis, in order."""

    parts: tuple[Tensor, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        first = self.parts[0].shape
        return (sum(part.shape[0] for part in self.parts), *first[1:])


Formula: TypeAlias = "Tensor | Concat"


def leaves(formula: Formula) -> Iterator[Tensor]:
    """The model tensors a formula reads, in order."""
    match formula:
        case Tensor():
            yield formula
        case Concat():
            yield from formula.parts
