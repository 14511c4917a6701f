"""A NativeExecutor of a Program that was compiled in this process, on the parameters of a model's tree."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from ...compiler.native.formats import UNPACKED, Formats
from ...compiler.native.outline import outline
from ...compiler.native.source import NativeProgram, write_program
from ...compiler.program import Program, native_is_on
from ..execute import TorchExecutor
from ..storage import ParameterBinder, tensors_of
from .abi import open_library
from .executor import NativeExecutor
from .toolchain import NoCompiler

_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def refusal(program: Program, binder: ParameterBinder) -> str | None:
    """Why the program does not run as machine code; None where it does."""
    if not native_is_on():
        return "it is switched off"
    parameters = binder.tensors()
    if program.target.device != "cpu" or any(parameter.device.type not in ("cpu", "meta") for parameter in parameters):
        return "it is for the CPU"
    kinds = {parameter.dtype for parameter in parameters if parameter.is_floating_point()}
    if len(kinds) != 1 or next(iter(kinds)) not in _DTYPES:
        return f"there are no kernels for {', '.join(sorted(str(kind) for kind in kinds))}"
    return None


def compiled_executor(
    program: Program,
    binder: ParameterBinder,
    formats: Formats = UNPACKED,
    packed: Mapping[str, Tensor] = MappingProxyType({}),
) -> NativeExecutor:
    """The executor of a program that `refusal` has nothing against. Raises NoCompiler where nothing can be compiled.

    formats: of the matrices to pack; packed: those that are packed already, by call and placeholder.
    """
    dtype = next(one.dtype for one in binder.tensors() if one.is_floating_point())
    native = _source(program, _DTYPES[dtype], formats)
    if not native.definitions:
        reason = next(iter(native.refused.values()))
        raise NoCompiler(f"no part of it can be compiled: {reason.reason}")
    library = open_library(native)
    parameters = binder.bind(native.takes_parts)
    slow = TorchExecutor(program, [tuple(tensors_of(bound)) for bound in parameters])
    return NativeExecutor(
        outline(program.module, native, program.states),
        library,
        parameters,
        dtype=dtype,
        weight_bytes=sum(parameter.nbytes for bound in parameters for parameter in tensors_of(bound)),
        formats=_in_use(formats, native),
        packed=packed,
        slow=slow,
    )


def _source(program: Program, dtype: str, formats: Formats) -> NativeProgram:
    """The program as C: as it was compiled, where its matrices are neither packed nor of another type."""
    if program.native is not None and dtype == program.target.dtype and not formats:
        return program.native
    return write_program(program.module, dtype, program.spec.document.path, formats)


def _in_use(formats: Formats, native: NativeProgram) -> Formats:
    """Without those of matrices that the code reads as they are."""
    return {
        name: {one: format for one, format in packed.items() if one not in native.unpacked.get(name, {})}
        for name, packed in formats.items()
    }
