"""Rows of a table in Triton, scaled on the way: one launch, where torch copies the scale from the host."""

# pyright: basic
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div
from ..kernel import Request
from . import reference

BLOCK = 1024
"""Features of a program."""


def serves(request: Request) -> str | None:
    """None, or why torch's lookup is to be preferred."""
    if request.phase == "train":
        return "the gradient of a table is torch's"
    return "it scales in float32" if request.dtype == "float64" else None


@triton.jit
def _look_up(p_ids, p_table, p_out, width, stride, offset, scale, HAS_SCALE: tl.constexpr, BLOCK: tl.constexpr):
    """BLOCK features of one token; the scale is rounded to the table's dtype."""
    i_token, o_x = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_x = o_x < width
    i_row = tl.maximum(tl.load(p_ids + i_token).to(tl.int64) + offset, 0)
    b_row = tl.load(p_table + i_row * stride + o_x, mask=m_x, other=0.0)
    if HAS_SCALE:
        rounded = (tl.zeros((1,), tl.float32) + scale).to(b_row.dtype).to(tl.float32)
        b_row = (b_row.to(tl.float32) * rounded).to(b_row.dtype)
    tl.store(p_out + i_token * width + o_x, b_row, mask=m_x)


def _launch(ids: Tensor, weight: Tensor, offset: int, scale: float) -> Tensor:
    out = _fake(ids, weight, offset, scale)
    if out.numel():
        weight = weight if weight.stride(-1) == 1 else weight.contiguous()
        width = weight.shape[1]
        launchable(_look_up)[(ids.numel(), ceil_div(width, BLOCK))](
            ids.contiguous(), weight, out, width, weight.stride(0), offset, scale, HAS_SCALE=scale != 1.0, BLOCK=BLOCK,
            num_warps=4,
        )  # fmt: skip
    return out


def _fake(ids: Tensor, weight: Tensor, offset: int, scale: float) -> Tensor:
    return weight.new_empty((*ids.shape, weight.shape[1]))


def _reference(ids: Tensor, weight: Tensor, offset: int, scale: float) -> Tensor:
    return reference.embedding(ids=ids, weight=weight, offset=offset, scale=scale)


_embedding = gpu_op("embedding", _launch, fake=_fake, reference=_reference)


def embedding(*, ids: Tensor, weight: Tensor, offset: int = 0, scale: float = 1.0) -> Tensor:
    """Arguments and result are those of the reference. Has no gradient: while one is recorded torch's lookup serves.

    An id beyond the table is not noticed, as little as by torch on a GPU within a CUDA graph.
    """
    if torch.is_grad_enabled() and weight.requires_grad:
        return reference.embedding(ids=ids, weight=weight, offset=offset, scale=scale)
    return _embedding(ids, weight, offset, scale)
