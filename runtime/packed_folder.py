"""Packed weights on disk: one safetensors file with the packed matrices and whatever else the program reads.

It stands in a folder that `llmc build --quantize` wrote, beside the spec, and loads without the original weights: on a
CPU the matrices are mapped from the file and used where they lie; on a GPU they are put into its kernels' layouts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..compiler.native.body import AS_THEY_ARE
from ..compiler.native.formats import QUANTIZE, Formats, Quantize
from ..compiler.native.source import NativeProgram
from ..compiler.parameters import leaves
from ..compiler.plan import parameter_path
from ..compiler.program import Program
from ..specs.diagnostics import fail
from .atomic import write_atomically
from .checkpoint import Checkpoint
from .checkpoint_writer import write_checkpoint
from .containment import find_inside, read_bytes
from .finiteness import require_finite
from .save import COPIED
from .tree import assign

if TYPE_CHECKING:
    from .model import LanguageModel

FORMAT = "llmc-packed-1"


def write_packed(model: LanguageModel, quantize: Quantize, folder: Path) -> None:
    """Pack the model and write what it needs into `folder`. Raises as `LanguageModel.pack` and `write_checkpoint`."""
    tensors, matrices = packed_contents(model, lambda: model.pack(quantize))
    write_checkpoint(folder, {**tensors, **matrices}, metadata={"format": FORMAT, "quantize": quantize})
    for name in COPIED:
        file = None if model.source is None else find_inside(model.source, name)
        if file is not None:
            write_atomically(folder / name, read_bytes(file, 64 << 20))


def packed_contents(
    model: LanguageModel, pack: Callable[[], object]
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """What is left of a model for a CPU once `pack` has packed it: parameters that it reads as they are, by path, and
    matrices, by call and placeholder."""
    parameters = {path: parameter.detach() for path, parameter in model.named_owned_parameters().items()}
    pack()
    executor = model.packed_executor()
    kept = unpacked_paths(model.program, executor.native, executor.formats)
    return {path: parameters[path] for path in kept}, executor.binding.packed


def unpacked_paths(program: Program, native: NativeProgram, formats: Formats) -> tuple[str, ...]:
    """The parameters, by owner's path, that the program reads as they are."""
    found: dict[str, None] = {}
    for call in program.module.calls:
        lowered = program.module.definitions[call.definition]
        definition = native.definitions.get(call.definition)
        read = set(lowered.parameters)
        if definition is not None:
            read = {operand.placeholder for operand in definition.parameters if operand.format in AS_THEY_ARE}
        for placeholder in lowered.parameters:
            for part in leaves(lowered.parameters[placeholder]) if placeholder in read else ():
                path = parameter_path(call, part.node, part.name)
                found[program.weights.ties.get(path, path)] = None
    return tuple(found)


def packed_format(checkpoint: Checkpoint) -> Quantize | None:
    """How the weights of a folder are packed; None where they are not. Raises E0753 where the file does not say."""
    if checkpoint.metadata.get("format") != FORMAT:
        return None
    found = checkpoint.metadata.get("quantize", "")
    if found not in QUANTIZE:
        raise fail("E0753", f"{checkpoint.folder}: the packed weights do not say how they are packed")
    return found


def read_packed(model: LanguageModel, checkpoint: Checkpoint) -> None:
    """Fill a model whose parameters are on the meta device, and make it a packed one.

    Raises E0753 for a file that was written for another program, E0756 for NaN or infinity, E0861 where there is no
    code for packed matrices.
    """
    quantize = packed_format(checkpoint)
    assert quantize is not None
    matrices = {name: checkpoint.read(name) for name in checkpoint.entries if ":" in name}
    specs, tensors = model.program.weights.parameters, dict[str, Tensor]()
    for name in checkpoint.entries.keys() - matrices.keys():
        tensors[name] = checkpoint.read(name)
        if name not in specs or tuple(tensors[name].shape) != specs[name].shape:
            raise fail("E0753", f"{checkpoint.folder}: {name} is not a parameter of {model.program.spec.name}")
        require_finite(name, tensors[name], checkpoint.entries[name].file)
    fill_packed(model, quantize, tensors, matrices, torch.device(model.program.target.device))


def fill_packed(
    model: LanguageModel,
    quantize: Quantize,
    tensors: Mapping[str, Tensor],
    matrices: Mapping[str, Tensor],
    device: torch.device,
) -> None:
    """Fill a model whose parameters are on the meta device with `packed_contents`. Raises E0753, E0861 as above."""
    for name, tensor in tensors.items():
        assign(model, name, nn.Parameter(tensor.to(device), requires_grad=False))
    model.to(getattr(torch, model.program.target.dtype))
    model.retie()
    model.pack(quantize, matrices)
