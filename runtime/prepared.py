"""Parameters in the form that the chosen kernels read: packed once, when a program is bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor

from ..compiler.program import PHASES, Program
from ..kernels.kernel import Phase, resolve


class Prepared:
    """Makes the operands of calls. What several calls or phases read in one form is made once."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._made: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
        """By identity of a parameter and function, the parameter, which keeps its identity, and what was made of it."""

    def operands(self, definition: str, parameters: tuple[Tensor, ...]) -> Mapping[Phase, tuple[Tensor, ...]]:
        """For each phase the parameters of one call of the definition, in order of its placeholders."""
        names = self._program.module.definitions[definition].parameters
        found: dict[Phase, tuple[Tensor, ...]] = {}
        for phase in PHASES:
            functions = self._program.selections[phase][definition].prepared
            found[phase] = parameters
            if functions:
                named = zip(names, parameters, strict=True)
                found[phase] = tuple(self._make(tensor, functions.get(name)) for name, tensor in named)
        return found

    def _make(self, parameter: Tensor, function: str | None) -> Tensor:
        if function is None:
            return parameter
        key = (id(parameter), function)
        if key not in self._made:
            self._made[key] = (parameter, cast("Tensor", resolve(function)(parameter)))
        return self._made[key][1]
