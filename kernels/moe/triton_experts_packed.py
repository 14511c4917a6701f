"""Experts on packed weights in Triton: few tokens read the packed bytes, many the stacks widened for them.

What many tokens are multiplied by is made anew for each call, in x's dtype, and is gone after it: as many bytes as the
stacks of one layer had before they were packed.
"""

# pyright: basic
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..record import called_with
from .fields import Experts
from .operands import Operands
from .reference import experts as experts_in_torch
from .triton_experts import FEW
from .triton_experts import experts as experts_in_triton
from .triton_experts_packed_decode import packed_experts_of_few
from .triton_stack import widened


def _kernel(run: Callable[[str, Experts], Tensor], format: str) -> Callable[..., Tensor]:
    """`run` of a format with the arguments of the reference."""

    @called_with(Experts)
    def packed_experts(given: Experts) -> Tensor:
        """The stacks are those of `triton_stack`, outputs first whatever the layout was."""
        return run(format, replace(given, layout="out_in"))

    return packed_experts


def _in_triton(format: str, given: Experts) -> Tensor:
    """Up to one pick for each expert, or `FEW`, weights are read for each pick; else the whole stacks are widened."""
    picks, operands = given.experts, Operands.of(given)
    if picks.numel() > max(FEW, len(given.down_proj)):
        return experts_in_triton.of(widened(given, format))
    if format != "ternary":
        return packed_experts_of_few(*operands, format)
    each = torch.arange(picks.numel(), device=picks.device).view_as(picks)  # the stacks of what was picked
    stacks = {name: getattr(operands, name) for name in ("gate", "up", "down", "gate_bias", "up_bias", "down_bias")}
    picked = {name: one[picks.flatten()] for name, one in stacks.items() if one is not None}
    return experts_in_triton.of(widened(operands._replace(experts=each, **picked).record(), format))


def _in_torch(format: str, given: Experts) -> Tensor:
    """By the reference, on whole stacks."""
    return experts_in_torch.of(widened(given, format))


int8, int4, int4_128, ternary = (_kernel(_in_triton, one) for one in ("int8", "int4", "int4_128", "ternary"))
int8_torch, int4_torch, int4_128_torch, ternary_torch = (
    _kernel(_in_torch, one) for one in ("int8", "int4", "int4_128", "ternary")
)
