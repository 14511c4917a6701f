"""Parameters in the form that the chosen kernels read: made once, when a program is bound, of the model's parameters or
of matrices that machine code packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor

from ..compiler.ir import Call
from ..compiler.lowered import identifier
from ..compiler.parameters import leaves
from ..compiler.program import PHASES, Program
from ..compiler.select import Preparation
from ..kernels.kernel import Phase, resolve
from ..kernels.linear.triton_repack import Packed, repack, size
from ..specs.diagnostics import fail
from .storage import operand_name

NOTHING: Mapping[str, Tensor] = MappingProxyType({})


class Prepared:
    """Makes the operands of calls. What several calls or phases read in one form is made once.

    packed: matrices of machine code, by call and placeholder; they go to `device`.
    """

    def __init__(
        self, program: Program, packed: Mapping[str, Tensor] = NOTHING, device: torch.device | None = None
    ) -> None:
        self._program, self._packed, self._device = program, packed, device
        self._made: dict[tuple[int, Preparation], tuple[Tensor, Tensor]] = {}
        """By identity of a parameter and how it is prepared, the parameter, which keeps its identity, and what was made
        of it."""

    def operands(self, call: Call, parameters: Sequence[Tensor]) -> Mapping[Phase, tuple[Tensor, ...]]:
        """For each phase the parameters of one call, in order of its placeholders.

        Raises E0753 where packed matrices lack one that the model does not have either, or have one of another size.
        """
        formulas = self._program.module.definitions[call.definition].parameters
        found: dict[Phase, tuple[Tensor, ...]] = {}
        for phase in PHASES:
            wanted = self._program.selections[phase][call.definition].prepared
            if not wanted and not self._packed:
                found[phase] = tuple(parameters)
                continue
            found[phase] = tuple(
                self._operand(call, name, tensor, wanted.get(name))
                for name, tensor in zip(formulas, parameters, strict=True)
            )
        return found

    def _operand(self, call: Call, name: str, parameter: Tensor, wanted: Preparation | None) -> Tensor:
        if wanted is None:
            if self._packed and parameter.is_meta:
                raise fail("E0753", f"the packed weights lack {operand_name(call, name)}")
            return parameter
        key = (id(parameter), wanted)
        if key not in self._made:
            matrices = self._matrices(call, name, wanted)
            if matrices:
                made = repack(matrices, wanted.format)
            elif self._packed and parameter.is_meta:
                raise fail("E0753", f"the packed weights lack {operand_name(call, name)}")
            else:
                made = resolve(wanted.function)(parameter, **({} if wanted.parts is None else {"parts": wanted.parts}))
            self._made[key] = (parameter, cast("Tensor", made))
        return self._made[key][1]

    def _matrices(self, call: Call, name: str, wanted: Preparation) -> list[Packed]:
        """The packed matrices that stand in a parameter, one below the other; none where they are not there."""
        formula = self._program.module.definitions[call.definition].parameters[name]
        shapes = {operand_name(call, name): formula.shape}
        if wanted.parts is not None:  # machine code has each for itself
            shapes = {operand_name(call, identifier(part.path)): part.shape for part in leaves(formula)}
        if not shapes.keys() <= self._packed.keys():
            return []
        matrices = [
            Packed(self._packed[key].to(self._device), shape[0], shape[1], wanted.is_pair)
            for key, shape in shapes.items()
        ]
        for key, matrix in zip(shapes, matrices, strict=True):
            expected = size(matrix, wanted.format)
            if matrix.bytes.dtype != torch.uint8 or matrix.bytes.numel() != expected:
                raise fail("E0753", f"the packed weight {key} has {matrix.bytes.nbytes} bytes, not {expected}")
        return matrices
