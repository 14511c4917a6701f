"""Whole numbers of 8 bits, their sum and a factor for each token in Triton: of the token, its RMS norm, or a sum's.

One launch writes what `ternary.reference.quantised_activation` gives of what `norm.reference.rms_norm` gives, with the
same roundings: no product is part of a multiply-add. It writes half the bytes that the norm alone would. A row that is
not finite has the factor NaN, which the products take on.
"""

# pyright: basic
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.op import gpu_op, is_interpreted, launchable
from ..gpu.sizes import ceil_div
from . import reference
from .row_blocks import block_of, rows_of

SMALLEST = tl.constexpr(1e-5)
"""Least largest magnitude that a factor is made of, as in `ternary.reference`."""
_HALFWAY = tl.constexpr(12582912.0)
"""1.5 * 2^23: a float32 below 2^22 plus this is a whole number, rounded to even."""
_IS_INTERPRETED = tl.constexpr(is_interpreted())


@triton.jit
def factor_of(b_largest, b_nothing, LARGEST: tl.constexpr):
    """Of rows of these largest magnitudes; `b_nothing` is 0, or NaN where the row is not finite, and so is it then."""
    return tl.div_rn(1.0, tl.maximum(b_largest, SMALLEST)) * LARGEST + b_nothing  # torch too has a reciprocal first


@triton.jit
def whole_product(b_x, b_factor):
    """Float32 blocks -> their product as int32, rounded twice: the product is no part of a multiply-add."""
    if _IS_INTERPRETED:
        b_product = b_x * b_factor
        b_whole = (tl.where(b_product == b_product, b_product, 0.0) + _HALFWAY) - _HALFWAY
        b_whole = b_whole.to(tl.int32)
    else:
        b_whole = tl.inline_asm_elementwise(
            "{ .reg .f32 t; mul.rn.f32 t, $1, $2; cvt.rni.s32.f32 $0, t; }", "=r,f,f", [b_x, b_factor],
            dtype=tl.int32, is_pure=True, pack=1,
        )  # fmt: skip
    return b_whole


@triton.jit
def quantise_rows(b_x, LARGEST: tl.constexpr):
    """Block `[N, F]` float32 -> whole numbers to LARGEST as int32, and the factor of each row `[N]`."""
    b_factor = factor_of(tl.max(tl.abs(b_x), 1), tl.sum(b_x * 0.0, 1), LARGEST)
    return whole_product(b_x, b_factor[:, None]), b_factor


@triton.jit
def _forward(
    p_x, p_delta, p_weight, p_whole, p_factor, p_count, p_sum, rows, width, padded, stride, stride_delta, eps, offset,
    HAS_NORM: tl.constexpr, HAS_DELTA: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_OFFSET: tl.constexpr,
    LARGEST: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    o_x = tl.arange(0, BLOCK)
    m_x = (i_row < rows)[:, None] & (o_x < width)[None, :]
    o_out = i_row[:, None] * width + o_x[None, :]
    b_x = tl.load(p_x + (i_row * stride)[:, None] + o_x[None, :], mask=m_x, other=0.0)
    if HAS_DELTA:
        b_delta = tl.load(p_delta + (i_row * stride_delta)[:, None] + o_x[None, :], mask=m_x, other=0.0)
        b_x = (b_x.to(tl.float32) + b_delta.to(tl.float32)).to(b_x.dtype)
        tl.store(p_sum + o_out, b_x, mask=m_x)
    b_out = b_x.to(tl.float32)
    if HAS_NORM:
        b_out = b_out * tl.rsqrt(tl.sum(b_out * b_out, 1) / width + eps)[:, None]
        if HAS_WEIGHT:
            b_weight = tl.load(p_weight + o_x, mask=o_x < width, other=0.0)[None, :]
            if HAS_OFFSET:
                b_out = b_out * (b_weight.to(tl.float32) + offset)
            else:
                b_out = (b_out.to(b_x.dtype) * b_weight).to(tl.float32)
        b_out = b_out.to(b_x.dtype).to(tl.float32)
    b_whole, b_factor = quantise_rows(b_out, LARGEST)  # pyright: ignore[reportGeneralTypeIssues]
    tl.store(p_factor + i_row, b_factor, mask=i_row < rows)
    tl.store(p_count + i_row, tl.sum(b_whole, 1), mask=i_row < rows)
    m_whole = (i_row < rows)[:, None] & (o_x < padded)[None, :]
    tl.store(p_whole + i_row[:, None] * padded + o_x[None, :], b_whole.to(tl.int8), mask=m_whole)


def _launch(
    x: Tensor, delta: Tensor | None, weight: Tensor | None, has_norm: bool, eps: float, offset: float, bits: int,
    multiple: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    whole, factor, count, total = _fake(x, delta, weight, has_norm, eps, offset, bits, multiple)
    rows, width, padded = factor.numel(), x.shape[-1], whole.shape[-1]
    if rows:
        flat = rows_of(x)
        flat_delta = flat if delta is None else rows_of(delta)
        held, block, warps = block_of(padded, rows)
        launchable(_forward)[(ceil_div(rows, held),)](
            flat, flat_delta, weight, whole, factor, count, total, rows, width, padded, flat.stride(0),
            flat_delta.stride(0), eps, offset, HAS_NORM=has_norm, HAS_DELTA=delta is not None,
            HAS_WEIGHT=weight is not None, HAS_OFFSET=offset != 0.0, LARGEST=2 ** (bits - 1) - 1, ROWS=held,
            BLOCK=block, num_warps=warps,
        )  # fmt: skip
    return whole, factor, count, total


def _fake(
    x: Tensor, delta: Tensor | None, weight: Tensor | None, has_norm: bool, eps: float, offset: float, bits: int,
    multiple: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    total = (0,) if delta is None else x.shape
    return (
        torch.empty((*x.shape[:-1], ceil_div(x.shape[-1], multiple) * multiple), dtype=torch.int8, device=x.device),
        torch.empty((*x.shape[:-1], 1), dtype=torch.float32, device=x.device),
        torch.empty((*x.shape[:-1], 1), dtype=torch.int32, device=x.device),
        torch.empty(total, dtype=x.dtype, device=x.device),
    )


def _reference(
    x: Tensor, delta: Tensor | None, weight: Tensor | None, has_norm: bool, eps: float, offset: float, bits: int,
    multiple: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    total = x if delta is None else x + delta
    out = reference.rms_norm(x=total, weight=weight, eps=eps, weight_offset=offset) if has_norm else total
    largest = 2 ** (bits - 1) - 1
    wide = out.float()
    factor = largest / wide.abs().amax(-1, keepdim=True).clamp(min=SMALLEST.value)
    kept = x.new_empty(0) if delta is None else total.contiguous()
    whole = (wide * factor).round().clamp(-largest - 1, largest).to(torch.int8)
    padding = -whole.shape[-1] % multiple
    return torch.nn.functional.pad(whole, (0, padding)), factor, whole.sum(-1, keepdim=True, dtype=torch.int32), kept


_quantise = gpu_op("quantise_activation", _launch, fake=_fake, reference=_reference)


def quantised(*, x: Tensor, bits: int = 8) -> tuple[Tensor, Tensor]:
    """x `[..., F]` -> whole numbers `[..., F]` int8, and what they were multiplied by, `[..., 1]` float32.

    `bits` is from 2 to 8. Has no gradient.
    """
    return _quantise(x, None, None, False, 0.0, 0.0, bits, 1)[:2]


def normed_rows(
    *, x: Tensor, delta: Tensor | None = None, weight: Tensor | None = None, has_norm: bool = False, eps: float = 0.0,
    weight_offset: float = 0.0, bits: int = 8, multiple: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """`x + delta`, its RMS norm and `quantised` of that, as asked for, for products in whole numbers.

    x, delta `[..., F]`, weight `[F]` -> rows padded with zeros to P, a multiple of `multiple`, `[..., P]` int8, factors
    `[..., 1]` float32, the sum of each row's numbers `[..., 1]` int32, and `x + delta`, empty without a delta.
    """
    return _quantise(x, delta, weight, has_norm, eps, weight_offset, bits, multiple)
