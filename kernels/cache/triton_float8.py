"""float8 caches in Triton: rounds new heads, and reads a cache into the model's dtype, for prompts, whose attention
wants keys of one dtype. Slots that hold no token are not read. Floor: the bytes that are held, and as many elements
written.
"""

# pyright: basic
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div, power_of_2
from . import float8

TILE = 8192
"""Elements of a program."""


@triton.jit
def quantised(b_x):
    """`float8.quantise` of rows `[N, D]` -> numbers of float8_e4m3fn, still as float32, and the scales `[N]`.

    They are rounded here, ties to even, so that the conversion after it is exact: Triton's interpreter rounds wrong.
    """
    b_wide = b_x.to(tl.float32)
    b_scale = tl.div_rn(tl.max(tl.abs(b_wide), 1), 448.0)
    b_scale = tl.where(b_scale > 0.0, b_scale, 1.0)
    b_near = tl.div_rn(b_wide, b_scale[:, None])
    b_bits = b_near.to(tl.int32, bitcast=True)
    b_bits = (b_bits + 0x7FFFF + ((b_bits >> 20) & 1)) & -0x100000
    b_small = (b_near + 24576.0) - 24576.0
    return tl.where(tl.abs(b_near) < 0.015625, b_small, b_bits.to(tl.float32, bitcast=True)), b_scale


@triton.jit
def expand_kernel(
    p_x, p_scale, p_at, p_out, heads, slots, stride_ab, stride_as,
    DIM: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """BLOCK_S slots of one head of one row."""
    i_row = tl.program_id(1).to(tl.int64)
    o_slot, o_d = tl.program_id(0) * BLOCK_S + tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_D)
    m_slot = o_slot < slots
    b_at = tl.load(p_at + i_row // heads * stride_ab + o_slot * stride_as, mask=m_slot, other=-1)
    m_held = b_at >= 0
    o_row = i_row * slots + o_slot
    b_scale = tl.load(p_scale + o_row, mask=m_held, other=0.0)
    o_x = o_row[:, None] * DIM + o_d[None, :]
    m_d = (o_d < DIM)[None, :]
    b_x = tl.load(p_x + o_x, mask=m_held[:, None] & m_d, other=0.0).to(tl.float32)
    tl.store(p_out + o_x, (b_x * b_scale[:, None]).to(p_out.dtype.element_ty), mask=m_slot[:, None] & m_d)


def _launch(x: Tensor, scale: Tensor, at: Tensor, dtype: torch.dtype) -> Tensor:
    x, scale = x.contiguous(), scale.contiguous()
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    if out.numel():
        batch, heads, slots, dim = x.shape
        block_d = power_of_2(dim)
        block_s = max(1, min(power_of_2(slots), TILE // block_d))
        launchable(expand_kernel)[(ceil_div(slots, block_s), batch * heads)](
            x, scale, at, out, heads, slots, *at.stride(), DIM=dim, BLOCK_S=block_s, BLOCK_D=block_d, num_warps=4
        )
    return out


def _fake(x: Tensor, scale: Tensor, at: Tensor, dtype: torch.dtype) -> Tensor:
    return x.new_empty(x.shape, dtype=dtype)


def _reference(x: Tensor, scale: Tensor, at: Tensor, dtype: torch.dtype) -> Tensor:
    held = (at >= 0)[:, None, :]
    found = float8.dequantise(x, scale.masked_fill(~held, 0.0), at, dtype)
    return found.masked_fill(~held[..., None], 0.0)


_expand = gpu_op("expand_float8", _launch, fake=_fake, reference=_reference)


def dequantise(x: Tensor, scale: Tensor, at: Tensor, dtype: torch.dtype) -> Tensor:
    """`float8.dequantise`, zeros in slots that hold no token."""
    return _expand(x, scale, at, dtype)
