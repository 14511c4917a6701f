"""Which executor runs a Program: a GPU's for a GPU; on a CPU machine code, or torch with the reason said once."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache

from torch import Tensor

from ..compiler.native.formats import Formats
from ..compiler.program import Program
from ..specs.diagnostics import fail
from .execute import Executor, TorchExecutor
from .gpu.executor import GpuExecutor
from .native.compiled import compiled_executor, refusal
from .native.toolchain import NoCompiler
from .storage import ParameterBinder, tensors_of


def make_executor(program: Program, binder: ParameterBinder) -> Executor:
    """The fastest executor that serves this program here."""
    if program.target.device.startswith("cuda"):
        return GpuExecutor(program, [tuple(tensors_of(bound)) for bound in binder.bind()])
    if refusal(program, binder) is None:
        try:
            return compiled_executor(program, binder)
        except NoCompiler as reason:
            _say_once(str(reason))
    return TorchExecutor(program, [tuple(tensors_of(bound)) for bound in binder.bind()])


def make_packed_executor(
    program: Program, binder: ParameterBinder, formats: Formats, packed: Mapping[str, Tensor]
) -> Executor:
    """One whose matrices are packed; `packed` are those of machine code, by call and placeholder, which serve both.

    Raises E0861 where there are no kernels for them, E0753 where `packed` is of another program.
    """
    if program.target.device.startswith("cuda"):
        return GpuExecutor(program.packed(formats), [tuple(tensors_of(bound)) for bound in binder.bind()], packed)
    reason = refusal(program, binder)
    if reason is None:
        try:
            return compiled_executor(program, binder, formats, packed)
        except NoCompiler as error:
            reason = str(error)
    raise fail("E0861", f"{program.spec.name} cannot be packed: {reason}", help="load it without quantize")


@cache
def _say_once(reason: str) -> None:
    print(f"note: running through torch, slower than machine code: {reason}", file=sys.stderr)
