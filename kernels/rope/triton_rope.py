"""RoPE by a table in Triton, forward and backward: every pair of a token's heads in one launch, read and written once.

The gradient is the turn by the opposite angle. Floor: twice the bytes of x.
"""

# pyright: basic
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.gradients import register_gradients
from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..kernel import Request
from . import reference
from .fields import RopeLayout

HELD = 2048
"""Pairs of a program: some heads of one token."""


def serves(request: Request) -> str | None:
    """None, or why the kernel cannot run."""
    return "it turns in float32" if request.dtype == "float64" else None


@triton.jit
def _turn(
    p_x, p_table, p_out, heads, head_dim, dims, stride,
    IS_INTERLEAVED: tl.constexpr, IS_BACK: tl.constexpr, HAS_REST: tl.constexpr,
    HEADS: tl.constexpr, PAIRS: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """HEADS heads of one token. The table holds dims / 2 cosines, then the sines; dims beyond `dims` stay."""
    i_token = tl.program_id(0).to(tl.int64)
    i_head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    o_pair = tl.arange(0, PAIRS)
    half = dims // 2
    m_pair = o_pair < half
    m_x = (i_head < heads)[:, None] & m_pair[None, :]
    p_angle = p_table + i_token * dims + o_pair
    b_cos = tl.load(p_angle, mask=m_pair, other=0.0).to(p_x.dtype.element_ty).to(tl.float32)[None, :]
    b_sin = tl.load(p_angle + half, mask=m_pair, other=0.0).to(p_x.dtype.element_ty).to(tl.float32)[None, :]
    if IS_BACK:
        b_sin = -b_sin
    if IS_INTERLEAVED:
        o_left = i_head[:, None] * head_dim + 2 * o_pair[None, :]
        o_right = o_left + 1
    else:
        o_left = i_head[:, None] * head_dim + o_pair[None, :]
        o_right = o_left + half
    p_row, p_to = p_x + i_token * stride, p_out + i_token * heads * head_dim
    b_left = tl.load(p_row + o_left, mask=m_x, other=0.0).to(tl.float32)
    b_right = tl.load(p_row + o_right, mask=m_x, other=0.0).to(tl.float32)
    tl.store(p_to + o_left, (b_left * b_cos - b_right * b_sin).to(p_out.dtype.element_ty), mask=m_x)
    tl.store(p_to + o_right, (b_right * b_cos + b_left * b_sin).to(p_out.dtype.element_ty), mask=m_x)
    if HAS_REST:
        o_rest = dims + tl.arange(0, REST)
        o_same = i_head[:, None] * head_dim + o_rest[None, :]
        m_rest = (i_head < heads)[:, None] & (o_rest < head_dim)[None, :]
        tl.store(p_to + o_same, tl.load(p_row + o_same, mask=m_rest, other=0.0), mask=m_rest)


def blocks(heads: int, dims: int) -> tuple[int, int]:
    """Heads and pairs of a program."""
    pairs = power_of_2(dims // 2)
    return min(power_of_2(heads), max(1, HELD // pairs)), pairs


def _launch(x: Tensor, table: Tensor, head_dim: int, dims: int, is_interleaved: bool, is_back: bool) -> Tensor:
    out = _fake(x, table, head_dim, dims, is_interleaved, is_back)
    if out.numel():
        flat = x.reshape(-1, x.shape[-1])
        flat = flat if flat.stride(-1) == 1 else flat.contiguous()
        tokens, heads = flat.shape[0], flat.shape[1] // head_dim
        held, pairs = blocks(heads, dims)
        launchable(_turn)[(tokens, ceil_div(heads, held))](
            flat, table.contiguous(), out, heads, head_dim, dims, flat.stride(0), IS_INTERLEAVED=is_interleaved,
            IS_BACK=is_back, HAS_REST=dims < head_dim, HEADS=held, PAIRS=pairs, REST=power_of_2(head_dim - dims),
            num_warps=4,
        )  # fmt: skip
    return out


def _fake(x: Tensor, table: Tensor, head_dim: int, dims: int, is_interleaved: bool, is_back: bool) -> Tensor:
    return x.new_empty(x.shape)


def _reference(x: Tensor, table: Tensor, head_dim: int, dims: int, is_interleaved: bool, is_back: bool) -> Tensor:
    if is_back:
        cos, sin = table.chunk(2, dim=-1)
        table = torch.cat((cos, -sin), dim=-1)
    layout = "interleaved" if is_interleaved else "half"
    return reference.rope_apply(x=x, table=table, head_dim=head_dim, rotary_dim=dims, layout=layout)


_apply = gpu_op("rope_apply", _launch, fake=_fake, reference=_reference)


def _keep(ctx, inputs, output) -> None:
    _, table, *ctx.options = inputs
    ctx.save_for_backward(table)


def _gradients(ctx, grad: Tensor):
    head_dim, dims, is_interleaved, is_back = ctx.options
    grad_x = _apply(grad, ctx.saved_tensors[0], head_dim, dims, is_interleaved, not is_back)
    return grad_x, None, None, None, None, None


register_gradients(_apply, _gradients, setup_context=_keep)


def rope_apply(
    *, x: Tensor, table: Tensor, head_dim: int, rotary_dim: int | None = None, layout: RopeLayout = "half"
) -> Tensor:
    """Arguments and result are those of the reference. The table has no gradient."""
    return _apply(x, table, head_dim, rotary_dim or head_dim, layout == "interleaved", False)
