"""Parameters in the form that the chosen kernels read: packed once, when a program is bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor

from ..compiler.program import PHASES, Program
from ..compiler.select import Preparation
from ..kernels.kernel import Phase, resolve


class Prepared:
    """Makes the operands of calls. What several calls or phases read in one form is made once."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._made: dict[tuple[int, Preparation], tuple[Tensor, Tensor]] = {}
        """By identity of a parameter and how it is prepared, the parameter, which keeps its identity, and what was made
        of it."""

    def operands(self, definition: str, parameters: tuple[Tensor, ...]) -> Mapping[Phase, tuple[Tensor, ...]]:
        """For each phase the parameters of one call of the definition, in order of its placeholders."""
        names = self._program.module.definitions[definition].parameters
        found: dict[Phase, tuple[Tensor, ...]] = {}
        for phase in PHASES:
            wanted = self._program.selections[phase][definition].prepared
            found[phase] = parameters
            if wanted:
                named = zip(names, parameters, strict=True)
                found[phase] = tuple(self._make(tensor, wanted.get(name)) for name, tensor in named)
        return found

    def _make(self, parameter: Tensor, wanted: Preparation | None) -> Tensor:
        if wanted is None:
            return parameter
        key = (id(parameter), wanted)
        if key not in self._made:
            others = {} if wanted.parts is None else {"parts": wanted.parts}
            self._made[key] = (parameter, cast("Tensor", resolve(wanted.function)(parameter, **others)))
        return self._made[key][1]
