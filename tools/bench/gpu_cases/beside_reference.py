"""One op at one size beside its reference in torch, which is the rival: what every case without a better one is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ....kernels.kernel import Phase, resolve
from ....kernels.registry import kernels_for, resolve_reference
from .case import Case, Run, Sizes, first_tensor, forward_and_backward, picked


def beside_reference(
    sizes: Sizes,
    reference: str,
    phase: Phase,
    operands: Mapping[str, object],
    *,
    leaves: Sequence[str] = (),
    flops: float = 0.0,
    moved: float | None = None,
    target: str = "",
    goal: str = ">= 1x torch",
    note: str = "",
    format: str = "",
    compares: bool = True,
    others: Mapping[str, object] | None = None,
) -> Case:
    """reference: `family:op`. leaves: operands whose gradients are asked for, in training.

    moved: bytes, absent: those of all operands and results. With flops the product is the floor, else memory. others:
    fields of the node that are no operands.
    """
    op = reference.partition(":")[2]
    name, function = picked(op, phase, sizes, operands, format=format, **(others or {}))
    given, plain = dict(operands), resolve_reference(reference)
    kernel = next(one for one in kernels_for(op) if one.name == name)
    for argument in operands.keys() & kernel.prepares.keys():
        laid = {"is_in_out": operands.get("layout") == "in_out"} if op == "experts" else {}
        given[argument] = resolve(kernel.prepares[argument])(operands[argument], **laid)

    def ours() -> object:
        return function(**given)

    def rival() -> object:
        return plain(**operands)

    found = ours()
    size = sum(x.nbytes for x in cast("list[object]", tree_leaves((given, found))) if isinstance(x, Tensor))
    run: tuple[Run, Run] = ours, rival
    if leaves:
        tensors = [cast("Tensor", operands[leaf]).requires_grad_() for leaf in leaves]
        grad = torch.randn_like(cast("Tensor", first_tensor(found)))
        run = (
            forward_and_backward(lambda: first_tensor(ours()), tensors, grad),
            forward_and_backward(lambda: first_tensor(rival()), tensors, grad),
        )
    shapes = ", ".join("x".join(map(str, x.shape)) for x in operands.values() if isinstance(x, Tensor))
    return Case(
        target=target, name=f"{op}{note}{' with gradients' * bool(leaves)}, {phase}: {shapes}", kernel=name,
        ours=run[0], bytes=size if moved is None else moved, flops=flops, bound="matmul" if flops else "bandwidth",
        rivals={"torch": run[1]}, compares=compares, goal=goal,
    )  # fmt: skip
