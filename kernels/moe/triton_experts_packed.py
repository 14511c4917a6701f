"""Experts on packed weights in Triton: few tokens read the packed bytes, many the stacks widened for them.

What many tokens are multiplied by is made anew for each call, in x's dtype, and is gone after it: as many bytes as the
stacks of one layer had before they were packed.
"""

# pyright: basic
from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .reference import Packing
from .reference import experts as experts_in_torch
from .triton_experts import FEW, experts
from .triton_experts_packed_decode import GROUP, packed_experts_of_few
from .triton_stack import dequantised, rows_of


def _experts(
    *,
    format: str,
    x: Tensor,
    weights: Tensor,
    experts: Tensor,
    down_proj: Tensor,
    gate_proj: Tensor | None = None,
    up_proj: Tensor | None = None,
    gate_up_proj: Tensor | None = None,
    packing: Packing = "separate",
    layout: str = "out_in",
    **others: Any,
) -> Tensor:
    """As the reference, but for the stacks, which `triton_stack` has made, outputs first whatever the layout was.

    Up to one pick for each expert, or `FEW`, weights are read for each pick.
    """
    del layout
    stacks = {"gate_proj": gate_proj, "up_proj": up_proj, "gate_up_proj": gate_up_proj, "down_proj": down_proj}
    if experts.numel() > max(FEW, len(down_proj)):
        return _widened(format, x, weights, experts, stacks, packing=packing, **others)
    if format not in GROUP:  # the stack of what was picked
        picks = experts.flatten()
        stacks, others = ({k: _picked(v, picks) for k, v in values.items()} for values in (stacks, others))
        numbers = torch.arange(len(picks), device=picks.device).view_as(experts)
        return _widened(format, x, weights, numbers, stacks, packing=packing, **others)
    is_packed = gate_up_proj is not None
    up, limit = gate_up_proj if is_packed else up_proj, others.get("limit")
    assert up is not None
    return packed_experts_of_few(
        x, weights, experts, gate_proj, up, down_proj, others.get("gate_proj_bias"),
        others.get("gate_up_proj_bias" if is_packed else "up_proj_bias"), others.get("down_proj_bias"),
        others.get("activation", "silu"), packing if is_packed else "separate", math.inf if limit is None else limit,
        others.get("up_offset", 0.0), others.get("weighs", "output"), format,
    )  # fmt: skip


def _picked(value: Any, picks: Tensor) -> Any:
    return value[picks] if isinstance(value, Tensor) else value


def _widened(
    format: str, x: Tensor, weights: Tensor, picks: Tensor, stacks: Any, *, run=experts, **others: Any
) -> Tensor:
    """The experts of unpacked weights on what the packed ones stand for."""
    width = x.shape[-1]
    widths = {name: width for name in ("gate_proj", "up_proj", "gate_up_proj")}
    is_packed = stacks["gate_up_proj"] is not None
    rows = rows_of(stacks["gate_up_proj"] if is_packed else stacks["up_proj"], width, format)
    widths["down_proj"] = rows // 2 if is_packed else rows
    wide = {k: None if v is None else dequantised(v, widths[k], format).to(x.dtype) for k, v in stacks.items()}
    return run(x=x, weights=weights, experts=picks, **wide, **others)


def _in_torch(
    *,
    format: str,
    x: Tensor,
    weights: Tensor,
    experts: Tensor,
    down_proj: Tensor,
    gate_proj: Tensor | None = None,
    up_proj: Tensor | None = None,
    gate_up_proj: Tensor | None = None,
    layout: str = "out_in",
    **others: Any,
) -> Tensor:
    """The same by the reference."""
    del layout
    stacks = {"gate_proj": gate_proj, "up_proj": up_proj, "gate_up_proj": gate_up_proj, "down_proj": down_proj}
    return _widened(format, x, weights, experts, stacks, run=experts_in_torch, **others)


int8, int4, int4_128, ternary = (partial(_experts, format=one) for one in ("int8", "int4", "int4_128", "ternary"))
int8_torch, int4_torch, int4_128_torch, ternary_torch = (
    partial(_in_torch, format=one) for one in ("int8", "int4", "int4_128", "ternary")
)
