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
from ..kernels.moe.triton_stack import repack_stack
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
                made = (repack if wanted.is_in_out is None else repack_stack)(matrices, wanted.format)
            elif self._packed and parameter.is_meta:
                raise fail("E0753", f"the packed weights lack {operand_name(call, name)}")
            else:
                details = {"parts": wanted.parts, "is_in_out": wanted.is_in_out}
                given = {key: value for key, value in details.items() if value is not None}
                made = resolve(wanted.function)(parameter, **given)
            self._made[key] = (parameter, cast("Tensor", made))
        return self._made[key][1]

    def _matrices(self, call: Call, name: str, wanted: Preparation) -> list[Packed]:
        """The packed matrices in a parameter, one below the other, or stacked; none where they are not there."""
        formula = self._program.module.definitions[call.definition].parameters[name]
        shapes = {operand_name(call, name): formula.shape}
        if wanted.parts is not None:  # machine code has each for itself
            shapes = {operand_name(call, identifier(part.path)): part.shape for part in leaves(formula)}
        if not shapes.keys() <= self._packed.keys():
            return []
        found: list[Packed] = []
        for key, shape in shapes.items():
            count, rows, width = shape[0] if wanted.is_in_out is not None else 1, *shape[-2:]
            if wanted.is_in_out:
                rows, width = width, rows
            memory = self._packed[key]
            expected = count * size(Packed(memory, rows, width, wanted.is_pair), wanted.format)
            if memory.dtype != torch.uint8 or memory.numel() != expected:
                raise fail("E0753", f"the packed weight {key} has {memory.nbytes} bytes, not {expected}")
            matrices = memory.to(self._device).view(count, -1)
            found += [Packed(matrix, rows, width, wanted.is_pair) for matrix in matrices]
        return found
