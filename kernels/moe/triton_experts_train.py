"""Experts that are trained, as one operator of torch with gradients: grouped products forward and backward."""

# pyright: basic
from __future__ import annotations

import torch
from torch import Tensor

from ..gpu.gradients import register_gradients
from ..gpu.op import gpu_op
from . import triton_experts_backward, triton_experts_grouped
from .operands import Operands, by_reference, empty
from .triton_experts_backward import TRAINED

TENSORS = 9
"""Of `Operands`, which stand first."""


def _launch(given: Operands) -> tuple[Tensor, Tensor]:
    return triton_experts_grouped.run(given, keeps=True)


def _fake(given: Operands) -> tuple[Tensor, Tensor]:
    lanes = given.up.shape[1 if given.layout == "out_in" else 2] * (1 if given.gate is None else 2)
    return empty(given), given.x.new_empty((given.experts.numel(), lanes))


def _reference(given: Operands) -> tuple[Tensor, Tensor]:
    """On a CPU nothing is kept: the gradient computes it again."""
    return by_reference(given), _fake(given)[1]


def _reference_backward(
    grad: Tensor, given: Operands, kept: Tensor, wants_x: bool, wants_matrices: bool
) -> triton_experts_backward.Gradients:
    names = [name for name in TRAINED if getattr(given, name) is not None]
    names = [name for name in names if (wants_x if name == "x" else wants_matrices or name == "weights")]

    def again(*changed: Tensor) -> Tensor:
        return by_reference(given._replace(**dict(zip(names, changed, strict=True))))

    # not autograd: it is left out within an operator
    found = torch.func.vjp(again, *(getattr(given, name).detach() for name in names))[1](grad)  # pyright: ignore[reportOptionalMemberAccess]
    by_name = dict(zip(names, found, strict=True))
    return tuple(by_name[name].contiguous() if name in by_name else grad.new_empty(0) for name in TRAINED)  # pyright: ignore[reportReturnType]


_experts_backward = gpu_op(
    "experts_backward",
    triton_experts_backward.launch,
    fake=triton_experts_backward.empty,
    reference=_reference_backward,
)
_experts = gpu_op("experts_train", _launch, fake=_fake, reference=_reference)


def _keep(ctx, inputs, output) -> None:
    ctx.settings = inputs[TENSORS:]
    ctx.set_materialize_grads(False)  # else zeros as large as what is kept
    ctx.save_for_backward(*inputs[:TENSORS], output[1])


def _gradients(ctx, grad: Tensor | None, _grad_kept: Tensor | None):
    if grad is None:
        return (None,) * len(Operands._fields)
    *tensors, kept = ctx.saved_tensors
    needs = dict(zip(Operands._fields, ctx.needs_input_grad, strict=True))
    matrices = any(needs[name] for name in TRAINED if name not in ("x", "weights"))
    found = _experts_backward(grad, *tensors, *ctx.settings, kept, needs["x"], matrices)
    by_name = {name: one for name, one in zip(TRAINED, found, strict=True) if needs[name]}
    return tuple(by_name.get(name) for name in Operands._fields)


register_gradients(_experts, _gradients, setup_context=_keep)


def experts_to_train(given: Operands) -> Tensor:
    """What `experts_of_many` gives, through which gradients flow."""
    return _experts(*given)[0]
