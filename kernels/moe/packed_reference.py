"""The definition of `experts` on packed weights: tokens and inner units are rounded as the formats of matrices say."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from ..linear.packed_reference import rounded_activation
from . import reference

Operands = Mapping[str, object]
"""The arguments of `experts`; its stacks are what kernels multiply with, in x's dtype."""
INWARD = ("gate_proj", "up_proj", "gate_up_proj")


def packed_experts(operands: Operands, *, in_format: str, down_format: str) -> Tensor:
    """`reference.experts` where gate and up are packed as `in_format` and down_proj as `down_format`; empty: not."""
    return outputs(operands, inner_units(operands, in_format), down_format)


def inner_units(operands: Operands, format: str) -> Tensor:
    """What each pick's expert has inside: `[picks of all tokens, F]`, token by token."""
    x, weights, picks, down = (cast("Tensor", operands[n]) for n in ("x", "weights", "experts", "down_proj"))
    each = picks.reshape(-1)
    rows = _rounded(x.reshape(-1, x.shape[-1]), format).repeat_interleave(picks.shape[-1], 0)
    if operands.get("weighs", "output") == "input":
        rows = rows * weights.reshape(-1, 1).to(x.dtype)
    found = x.new_zeros(len(each), down.shape[2 if operands.get("layout", "out_in") == "out_in" else 1])
    wanted = {name: value for name, value in operands.items() if name in signature(reference.inner_units).parameters}
    for expert in each.unique().tolist():
        given = cast("dict[str, Any]", {**wanted, "x": rows[each == expert], "expert": expert})
        found[each == expert] = reference.inner_units(**given)
    return found


def outputs(operands: Operands, hidden: Tensor, format: str) -> Tensor:
    """What `inner_units` become: `[..., M]`."""
    x, weights, picks, down = (cast("Tensor", operands[n]) for n in ("x", "weights", "experts", "down_proj"))
    bias, each = cast("Tensor | None", operands.get("down_proj_bias")), picks.reshape(-1)
    found = torch.zeros(len(hidden), x.shape[-1], dtype=weights.dtype, device=x.device)
    for expert in each.unique().tolist():
        rows = _rounded(hidden[each == expert], format)
        matrix = down[expert] if operands.get("layout", "out_in") == "out_in" else down[expert].T
        found[each == expert] = functional.linear(rows, matrix, None if bias is None else bias[expert]).to(found.dtype)
    if operands.get("weighs", "output") == "output":
        found = found * weights.reshape(-1, 1)
    return found.view(*picks.shape, x.shape[-1]).sum(-2).to(x.dtype).view(x.shape)


def _rounded(x: Tensor, format: str) -> Tensor:
    return rounded_activation(x, format).to(x.dtype) if format else x
