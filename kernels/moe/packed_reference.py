"""The definition of `experts` on packed weights: tokens and inner units are rounded as the formats of matrices say."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from ..linear.packed_reference import rounded_activation
from ..record import shared
from . import reference
from .fields import Experts, InnerUnits, Inside

INWARD = ("gate_proj", "up_proj", "gate_up_proj")


def packed_experts(given: Experts, *, in_format: str, down_format: str) -> Tensor:
    """`reference.experts` where gate and up are packed as `in_format` and down_proj as `down_format`; empty: not. The
    stacks are what kernels multiply with, in x's dtype."""
    return outputs(given, inner_units(given, in_format), down_format)


def inner_units(given: Experts, format: str) -> Tensor:
    """What each pick's expert has inside: `[picks of all tokens, F]`, token by token."""
    x, each = given.x, given.experts.reshape(-1)
    rows = _rounded(x.reshape(-1, x.shape[-1]), format).repeat_interleave(given.experts.shape[-1], 0)
    if given.weighs == "input":
        rows = rows * given.weights.reshape(-1, 1).to(x.dtype)
    found = x.new_zeros(len(each), given.down_proj.shape[2 if given.layout == "out_in" else 1])
    for expert in cast("list[int]", each.unique().tolist()):
        one = InnerUnits(x=rows[each == expert], expert=expert, **shared(given, Inside))
        found[each == expert] = reference.inner_units.of(one)
    return found


def outputs(given: Experts, hidden: Tensor, format: str) -> Tensor:
    """What `inner_units` become: `[..., M]`."""
    x, weights, bias, each = given.x, given.weights, given.down_proj_bias, given.experts.reshape(-1)
    found = torch.zeros(len(hidden), x.shape[-1], dtype=weights.dtype, device=x.device)
    for expert in cast("list[int]", each.unique().tolist()):
        rows, matrix = _rounded(hidden[each == expert], format), given.down_proj[expert]
        matrix = matrix if given.layout == "out_in" else matrix.T
        found[each == expert] = functional.linear(rows, matrix, None if bias is None else bias[expert]).to(found.dtype)
    if given.weighs == "output":
        found = found * weights.reshape(-1, 1)
    return found.view(*given.experts.shape, x.shape[-1]).sum(-2).to(x.dtype).view(x.shape)


def _rounded(x: Tensor, format: str) -> Tensor:
    return rounded_activation(x, format).to(x.dtype) if format else x
