"""The definition of `experts` on packed weights: tokens and inner units are rounded as the formats of matrices say."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from ..linear.packed_reference import rounded_activation
from .reference import experts

Operands = Mapping[str, object]
"""The arguments of `experts`; its stacks are what kernels multiply with, in x's dtype."""
INWARD = ("gate_proj", "up_proj", "gate_up_proj")


def packed_experts(operands: Operands, *, in_format: str, down_format: str) -> Tensor:
    """`reference.experts` where gate and up are packed as `in_format` and down_proj as `down_format`; empty: not."""
    return outputs(operands, inner_units(operands, in_format), down_format)


def inner_units(operands: Operands, format: str) -> Tensor:
    """What each pick's expert has inside: `[picks of all tokens, F]`, token by token."""
    x, weights, picks, down = (cast("Tensor", operands[n]) for n in ("x", "weights", "experts", "down_proj"))
    x = x.reshape(-1, x.shape[-1]).repeat_interleave(picks.shape[-1], 0)
    inner = down.shape[2 if operands.get("layout", "out_in") == "out_in" else 1]
    weighs_input = operands.get("weighs", "output") == "input"
    changed: dict[str, object] = {
        "x": _rounded(x, format),
        "weights": weights.reshape(-1, 1) if weighs_input else torch.ones_like(weights).reshape(-1, 1),
        "experts": picks.reshape(-1, 1),
        "down_proj": torch.eye(inner, dtype=x.dtype, device=x.device).expand(down.shape[0], -1, -1),
        "down_proj_bias": None,
    }
    return cast("Callable[..., Tensor]", experts)(**cast("dict[str, Any]", {**operands, **changed}))


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
    return found.view(*picks.shape, -1).sum(-2).to(x.dtype).view(x.shape)


def _rounded(x: Tensor, format: str) -> Tensor:
    return rounded_activation(x, format).to(x.dtype) if format else x
