"""Binds a Program to a model's parameters: fused matrices own the storage, the model's parameters become views of their
rows."""

from __future__ import annotations

import sys
from typing import cast

import torch
from torch import Tensor, nn

from ..compiler.ir import Call
from ..compiler.parameters import Concat, Formula
from ..compiler.parameters import Tensor as ModelTensor
from ..compiler.program import Program
from .leaves import Embedding, Linear
from .tree import find, own_parameters

Signature = tuple[tuple[int, int, int], ...]


def signature(root: nn.Module) -> Signature:
    """Changes whenever a parameter was replaced, moved or written to."""
    return tuple((id(p), p._version, 0 if _is_sharded(p) else p.data_ptr()) for p in root.parameters())


def bind_parameters(root: nn.Module, program: Program) -> list[tuple[Tensor, ...]]:
    """For each call of the program, the tensors of its parameter operands.

    Where the parts of a fused matrix are plain parameters, they become row views of it, so that both views of the model
    exist at 1x memory. Adapters and sharded parameters are evaluated into tensors of their own.
    """
    known: dict[tuple[str, ...], Tensor] = {}
    bound: list[tuple[Tensor, ...]] = []
    for call in program.module.calls:
        lowered = program.module.definitions[call.definition]
        bound.append(tuple(_evaluate(root, program, call, formula, known) for formula in lowered.parameters.values()))
    return bound


def _evaluate(
    root: nn.Module, program: Program, call: Call, formula: Formula, known: dict[tuple[str, ...], Tensor]
) -> Tensor:
    parts = formula.parts if isinstance(formula, Concat) else (formula,)
    key = tuple(_path(call, part, program) for part in parts)
    if key not in known:
        known[key] = _single(root, call, parts[0], program) if len(parts) == 1 else _fused(root, call, parts, program)
    return known[key]


def _path(call: Call, part: ModelTensor, program: Program) -> str:
    node = call.binding.absolute(part.node)
    path = f"{node}.{part.name}" if part.name else node
    return program.weights.ties.get(path, path)


def _fused(root: nn.Module, call: Call, parts: tuple[ModelTensor, ...], program: Program) -> Tensor:
    parameters = [_plain_parameter(root, _path(call, part, program)) for part in parts]
    if any(parameter is None for parameter in parameters):
        return torch.cat([_single(root, call, part, program) for part in parts])
    owned = [cast("nn.Parameter", parameter) for parameter in parameters]
    existing = _already_fused(owned)
    if existing is not None:
        return existing
    with torch.no_grad():
        fused = torch.cat([parameter.detach() for parameter in owned])
        row = 0
        for parameter in owned:
            parameter.data = fused[row : row + parameter.shape[0]]
            row += parameter.shape[0]
    return fused


def _already_fused(parameters: list[nn.Parameter]) -> Tensor | None:
    """The matrix whose consecutive rows the parameters are, if they are."""
    first = parameters[0]
    rows, offset = 0, first.storage_offset()
    for parameter in parameters:
        if parameter.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return None
        if parameter.storage_offset() != offset or not parameter.is_contiguous():
            return None
        rows, offset = rows + parameter.shape[0], offset + parameter.numel()
    shape = (rows, *first.shape[1:])
    return first.detach().as_strided(shape, first.stride(), first.storage_offset())


def _plain_parameter(root: nn.Module, path: str) -> nn.Parameter | None:
    """The parameter at a checkpoint path; None where it is sharded or an adapter stands in its place."""
    owner_path, _, name = path.rpartition(".")
    owner = find(root, owner_path)
    assert isinstance(owner, nn.Module)
    parameter = own_parameters(owner).get(name)
    if parameter is None or _is_sharded(parameter):
        return None
    return parameter


def _single(root: nn.Module, call: Call, part: ModelTensor, program: Program) -> Tensor:
    path = _path(call, part, program)
    owner_path, _, name = path.rpartition(".")
    owner = find(root, owner_path)
    assert isinstance(owner, nn.Module)
    parameter = own_parameters(owner).get(name)
    if parameter is None:
        return _effective(owner, name)
    if _is_sharded(parameter):
        return cast("Tensor", cast("object", parameter).full_tensor())  # type: ignore[attr-defined]
    return parameter.detach()


def _is_sharded(parameter: Tensor) -> bool:
    if "torch.distributed.tensor" not in sys.modules:  # its import takes longer than to load a model
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(parameter, DTensor)


def _effective(wrapper: nn.Module, name: str) -> Tensor:
    """The weight or bias of the linear map that an adapter makes of a leaf, found by applying it.

    Exact for every adapter that stays linear (LoRA and its relatives), without knowing any of them. Costs one product
    with the identity.
    """
    leaf = next(m for m in wrapper.modules() if isinstance(m, (Linear, Embedding)))
    was_training = wrapper.training
    wrapper.eval()
    try:
        with torch.no_grad():
            if isinstance(leaf, Embedding):
                ids = torch.arange(leaf.num_embeddings, device=leaf.weight.device) - leaf.offset
                return cast("Tensor", wrapper(ids)) / leaf.scale
            zero = torch.zeros(1, leaf.in_features, dtype=leaf.weight.dtype, device=leaf.weight.device)
            bias = cast("Tensor", wrapper(zero))[0]
            if name == "bias":
                return bias
            identity = torch.eye(leaf.in_features, dtype=leaf.weight.dtype, device=leaf.weight.device)
            return (cast("Tensor", wrapper(identity)) - bias).T.contiguous()
    finally:
        wrapper.train(was_training)
