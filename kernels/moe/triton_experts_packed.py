"""Experts on packed weights in Triton: few tokens read the packed bytes, many the stacks widened for them.

What many tokens are multiplied by is made anew for each call, in x's dtype, and is gone after it: as many bytes as the
stacks of one layer had before they were packed.
"""

# pyright: basic
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..pointwise.reference import ActivationKind
from .reference import Packing
from .reference import experts as experts_in_torch
from .triton_experts import FEW
from .triton_experts import experts as experts_in_triton
from .triton_experts_packed_decode import GROUP, packed_experts_of_few
from .triton_stack import dequantised, rows_of

STACKS = ("gate_proj", "up_proj", "gate_up_proj", "down_proj")


def _kernel(run: Callable[..., Tensor], format: str) -> Callable[..., Tensor]:
    """`run` of a format with the arguments of the reference."""

    def packed_experts(
        *,
        x: Tensor,
        weights: Tensor,
        experts: Tensor,
        down_proj: Tensor,
        gate_proj: Tensor | None = None,
        up_proj: Tensor | None = None,
        gate_up_proj: Tensor | None = None,
        gate_proj_bias: Tensor | None = None,
        up_proj_bias: Tensor | None = None,
        gate_up_proj_bias: Tensor | None = None,
        down_proj_bias: Tensor | None = None,
        activation: ActivationKind = "silu",
        packing: Packing = "separate",
        layout: str = "out_in",
        limit: float | None = None,
        up_offset: float = 0.0,
        weighs: str = "output",
    ) -> Tensor:
        """The stacks are those of `triton_stack`, outputs first whatever the layout was."""
        del layout
        operands = {
            "x": x, "weights": weights, "experts": experts, "down_proj": down_proj, "gate_proj": gate_proj,
            "up_proj": up_proj, "gate_up_proj": gate_up_proj, "gate_proj_bias": gate_proj_bias,
            "up_proj_bias": up_proj_bias, "gate_up_proj_bias": gate_up_proj_bias, "down_proj_bias": down_proj_bias,
            "activation": activation, "packing": packing, "limit": limit, "up_offset": up_offset, "weighs": weighs,
        }  # fmt: skip
        return run(format, operands)

    return packed_experts


def _in_triton(format: str, operands: dict[str, Any]) -> Tensor:
    """Up to one pick for each expert, or `FEW`, weights are read for each pick; else the whole stacks are widened."""
    picks, count = operands["experts"], len(operands["down_proj"])
    if picks.numel() > max(FEW, count):
        return experts_in_triton(**_widened(format, operands))
    if format not in GROUP:  # the stacks of what was picked
        each = torch.arange(picks.numel(), device=picks.device).view_as(picks)
        stacked = {name for name in operands if name.endswith(("_proj", "_bias")) and operands[name] is not None}
        picked = {name: operands[name][picks.flatten()] for name in stacked}
        return experts_in_triton(**_widened(format, operands | picked | {"experts": each}))
    both = operands["gate_up_proj"] is not None
    names = ("gate_proj", "gate_up_proj" if both else "up_proj", "down_proj")
    limit = math.inf if operands["limit"] is None else operands["limit"]
    return packed_experts_of_few(
        operands["x"], operands["weights"], picks, *(operands[name] for name in names),
        *(operands[f"{name}_bias"] for name in names), operands["activation"],
        operands["packing"] if both else "separate", limit, operands["up_offset"], operands["weighs"], format,
    )  # fmt: skip


def _in_torch(format: str, operands: dict[str, Any]) -> Tensor:
    """By the reference, on whole stacks."""
    return experts_in_torch(**_widened(format, operands))


def _widened(format: str, operands: dict[str, Any]) -> dict[str, Any]:
    """With stacks in x's dtype instead of packed ones."""
    x, up = operands["x"], operands["up_proj"]
    width = x.shape[-1]
    rows = rows_of(operands["gate_up_proj"] if up is None else up, width, format)
    inner = rows if up is not None else rows // 2
    wide = {
        name: dequantised(operands[name], inner if name == "down_proj" else width, format).to(x.dtype)
        for name in STACKS
        if operands[name] is not None
    }
    return operands | wide


int8, int4, int4_128, ternary = (_kernel(_in_triton, one) for one in ("int8", "int4", "int4_128", "ternary"))
int8_torch, int4_torch, int4_128_torch, ternary_torch = (
    _kernel(_in_torch, one) for one in ("int8", "int4", "int4_128", "ternary")
)
