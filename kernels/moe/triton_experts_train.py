"""Experts that are trained, as one operator of torch with gradients: grouped products forward and backward."""

# pyright: basic
from __future__ import annotations

import torch
from torch import Tensor

from ..gpu.op import gpu_op
from . import triton_experts_backward, triton_experts_grouped
from .triton_experts_decode import by_reference


def _launch(
    x: Tensor, weights: Tensor, experts: Tensor, gate: Tensor | None, up: Tensor, down: Tensor,
    gate_bias: Tensor | None, up_bias: Tensor | None, down_bias: Tensor | None,
    activation: str, packing: str, layout: str, limit: float, up_offset: float, weighs: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return triton_experts_grouped.run(
        x, weights, experts, gate, up, down, gate_bias, up_bias, down_bias, activation, packing, layout, limit,
        up_offset, weighs, keeps=True,
    )  # fmt: skip


def _fake(
    x: Tensor, weights: Tensor, experts: Tensor, gate: Tensor | None, up: Tensor, down: Tensor,
    gate_bias: Tensor | None, up_bias: Tensor | None, down_bias: Tensor | None,
    activation: str, packing: str, layout: str, limit: float, up_offset: float, weighs: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    lanes = up.shape[1 if layout == "out_in" else 2] * (1 if gate is None else 2)
    return torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty((experts.numel(), lanes))


def _reference(
    x: Tensor, weights: Tensor, experts: Tensor, gate: Tensor | None, up: Tensor, down: Tensor,
    gate_bias: Tensor | None, up_bias: Tensor | None, down_bias: Tensor | None,
    activation: str, packing: str, layout: str, limit: float, up_offset: float, weighs: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """On a CPU nothing is kept: the gradient computes it again."""
    given = (x, weights, experts, gate, up, down, gate_bias, up_bias, down_bias)
    settings = (activation, packing, layout, limit, up_offset, weighs)
    return by_reference(*given, *settings), _fake(*given, *settings)[1]


def _launch_backward(
    grad: Tensor, x: Tensor, weights: Tensor, experts: Tensor, gate: Tensor | None, up: Tensor, down: Tensor,
    gate_bias: Tensor | None, up_bias: Tensor | None, down_bias: Tensor | None, kept: Tensor,
    activation: str, packing: str, layout: str, limit: float, up_offset: float, weighs: str,
    wants_x: bool, wants_matrices: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return triton_experts_backward.launch(
        grad, x, weights, experts, gate, up, down, gate_bias, up_bias, down_bias, kept, activation, packing, layout,
        limit, up_offset, weighs, wants_x, wants_matrices,
    )  # fmt: skip


def _reference_backward(
    grad: Tensor, x: Tensor, weights: Tensor, experts: Tensor, gate: Tensor | None, up: Tensor, down: Tensor,
    gate_bias: Tensor | None, up_bias: Tensor | None, down_bias: Tensor | None, kept: Tensor,
    activation: str, packing: str, layout: str, limit: float, up_offset: float, weighs: str,
    wants_x: bool, wants_matrices: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    given = [x, weights, gate, up, down, gate_bias, up_bias, down_bias]
    places = [i for i, one in enumerate(given) if one is not None and (wants_x if i == 0 else wants_matrices or i == 1)]

    def again(*changed: Tensor) -> Tensor:
        one = [*given]
        for i, value in zip(places, changed, strict=True):
            one[i] = value
        return by_reference(
            one[0], one[1], experts, *one[2:], activation, packing, layout, limit, up_offset, weighs,  # pyright: ignore
        )  # fmt: skip

    # not autograd: it is left out within an operator
    found = torch.func.vjp(again, *(given[i].detach() for i in places))[1](grad)  # pyright: ignore[reportOptionalMemberAccess]
    by_place = dict(zip(places, found, strict=True))
    return tuple(by_place[i].contiguous() if i in by_place else x.new_empty(0) for i in range(8))  # pyright: ignore[reportReturnType]


_experts_backward = gpu_op(
    "experts_backward", _launch_backward, fake=triton_experts_backward.empty, reference=_reference_backward
)
_experts = gpu_op("experts_train", _launch, fake=_fake, reference=_reference)


def _keep(ctx, inputs, output) -> None:
    ctx.settings = inputs[9:]
    ctx.set_materialize_grads(False)  # else zeros as large as what is kept
    ctx.save_for_backward(*inputs[:9], output[1])


def _gradients(ctx, grad: Tensor | None, _grad_kept: Tensor | None):
    if grad is None:
        return (None,) * 15
    needs = ctx.needs_input_grad
    found = _experts_backward(grad, *ctx.saved_tensors, *ctx.settings, needs[0], any(needs[3:9]))
    places = (0, 1, 3, 4, 5, 6, 7, 8)
    by_place = {place: one if needs[place] else None for place, one in zip(places, found, strict=True)}
    return tuple(by_place.get(place) for place in range(15))


_experts.register_autograd(_gradients, setup_context=_keep)


def experts_to_train(*operands: object) -> Tensor:
    """The operands of `experts_of_many` -> its output, through which gradients flow."""
    return _experts(*operands)[0]
