"""Binds a Program to a model's parameters: the parts of a fused matrix are taken where they lie, or the matrix owns the
storage and the model's parameters become views of its rows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from ..compiler.ir import Call
from ..compiler.parameters import Concat, Formula
from ..compiler.parameters import Tensor as ModelTensor
from ..compiler.program import Program
from .leaves import Embedding, Linear
from .tree import find, own_parameters

Signature = tuple[tuple[int, int, int], ...]
Bound: TypeAlias = "Tensor | tuple[Tensor, ...]"
"""A parameter operand: one tensor, or the parts of a fused matrix; no parts where only the packed form is known."""


def signature(parameters: Iterable[Tensor]) -> Signature:
    """Changes whenever a parameter was replaced, moved or written to."""
    return tuple((id(p), p._version, 0 if _is_sharded(p) else p.data_ptr()) for p in parameters)


def first_parameter(root: nn.Module) -> Tensor:
    """The first of `root.parameters()`, without their names. Raises ValueError where there is none."""
    modules: list[nn.Module | None] = [root]
    while modules:
        module = modules.pop()
        if module is None:
            continue
        for parameter in module._parameters.values():  # pyright: ignore[reportPrivateUsage]
            if parameter is not None:
                return parameter
        modules += reversed(module._modules.values())  # pyright: ignore[reportPrivateUsage]
    raise ValueError("there are no parameters")


def parameters_below(root: nn.Module) -> list[Tensor]:
    """The parameters of a tree, shared ones as often as they are shared: a third of the time of `parameters()`."""
    found: list[nn.Parameter | None] = []
    modules: list[nn.Module | None] = [root]
    while modules:
        module = modules.pop()
        if module is not None:
            found += module._parameters.values()  # pyright: ignore[reportPrivateUsage]
            modules += module._modules.values()  # pyright: ignore[reportPrivateUsage]
    return [parameter for parameter in found if parameter is not None]


def tensors_of(bound: Iterable[Bound]) -> Iterator[Tensor]:
    """All tensors, parts one by one."""
    return chain.from_iterable(one if isinstance(one, tuple) else (one,) for one in bound)


def operand_name(call: Call, placeholder: str) -> str:
    """What a parameter of one call is called: `model.layers.3:mlp_down_proj_weight`."""
    return f"{call.binding.prefix}:{placeholder}"


class ParameterBinder:
    """Finds what the parameter operands of a program are in a model's tree; each is evaluated once."""

    def __init__(self, root: nn.Module, program: Program) -> None:
        self._root, self._program = root, program
        self._whole: dict[tuple[str, ...], Tensor] = {}
        self._parts: dict[tuple[str, ...], tuple[Tensor, ...]] = {}

    def tensors(self) -> list[Tensor]:
        """What the operands are made of; nothing is fused for it."""
        return list(chain.from_iterable(map(tensors_of, self.bind(lambda _definition, _placeholder: True))))

    def bind(self, is_apart: Callable[[str, str], bool] | None = None) -> list[tuple[Bound, ...]]:
        """For each call of the program, its parameter operands.

        is_apart: whether a definition takes a fused matrix, by its placeholder, as its parts; None: none does. Where it
        does not and the parts are plain parameters, they become row views of it, so that both views of the model exist
        at 1x memory. Adapters and sharded parameters are evaluated into tensors of their own.
        """
        operands = [
            [
                (call, formula, is_apart is not None and is_apart(call.definition, name))
                for name, formula in self._formulas(call)
            ]
            for call in self._program.module.calls
        ]
        for call, formula, apart in chain.from_iterable(operands):
            if not apart:
                self._find(call, formula, False)  # before parts are looked at: fusing moves parameters
        return [tuple(self._find(*operand) for operand in of_call) for of_call in operands]

    def _formulas(self, call: Call) -> Iterable[tuple[str, Formula]]:
        return self._program.module.definitions[call.definition].parameters.items()

    def _find(self, call: Call, formula: Formula, is_apart: bool) -> Bound:
        parts = formula.parts if isinstance(formula, Concat) else (formula,)
        key = tuple(_path(call, part, self._program) for part in parts)
        if len(parts) == 1:
            return self._single(call, parts[0])
        if is_apart:
            if key not in self._parts:
                self._parts[key] = tuple(self._single(call, part) for part in parts)
            return self._parts[key]
        if key not in self._whole:
            self._whole[key] = self._fused(call, parts)
        return self._whole[key]

    def _single(self, call: Call, part: ModelTensor) -> Tensor:
        key = (_path(call, part, self._program),)
        if key not in self._whole:
            self._whole[key] = _single(self._root, key[0])
        return self._whole[key]

    def _fused(self, call: Call, parts: tuple[ModelTensor, ...]) -> Tensor:
        parameters = [_plain_parameter(self._root, _path(call, part, self._program)) for part in parts]
        if any(parameter is None for parameter in parameters):
            return torch.cat([self._single(call, part) for part in parts])
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
        for part in parts:
            self._whole.pop((_path(call, part, self._program),), None)
        self._parts.clear()
        return fused


def _path(call: Call, part: ModelTensor, program: Program) -> str:
    node = call.binding.absolute(part.node)
    path = f"{node}.{part.name}" if part.name else node
    return program.weights.ties.get(path, path)


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


def _single(root: nn.Module, path: str) -> Tensor:
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
