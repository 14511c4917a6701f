"""Linear layers with 4-bit weights in Triton, activations as they are: a scale for each 32 or 128 columns of a row.

One token is bound by the packed bytes: two instructions part eight weights, one makes a number of each and one
multiplies; sums of a group are scaled together, and what the offset of 8 adds is taken off through the group's sum of
activations. More tokens go through the matrix units, with the weights scaled in x's dtype: half a step of it is what
the product adds to the rounding of the format.
"""

# pyright: basic
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.bytes import fields_of_4
from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..gpu.target import KIB, launch_target
from ..gpu.tuning import Config, Key, Tunable
from .reference import linear
from .triton_pack import dequantised, padded, rows_of


@triton.jit
def _vector(
    p_x, p_weight, p_scale, p_bias, p_out, width, rows, size,
    HAS_BIAS: tl.constexpr, G: tl.constexpr, BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr,
):  # fmt: skip
    """BLOCK_OUT outputs of the only token; BLOCK_IN groups of the row's `size` bytes a step."""
    o_row, o_group = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT), tl.arange(0, BLOCK_IN)
    m_row = o_row < rows
    groups = size // G
    o_in = o_group[:, None] * G + tl.arange(0, G)[None, :]
    p_rows = p_weight + o_row.to(tl.int64)[:, None, None] * size + o_in[None, :, :]
    p_scales = p_scale + o_row.to(tl.int64)[:, None] * (2 * groups) + o_group[None, :]
    b_sums = tl.zeros((BLOCK_OUT, BLOCK_IN), tl.float32)
    for start in range(0, groups, BLOCK_IN):
        m_group = start + o_group < groups
        m_scale = m_row[:, None] & m_group[None, :]
        o_low, o_high = start * G + o_in, start * G + o_in + size
        m_high = m_group[:, None] & (o_high < width)
        b_low = tl.load(p_x + o_low, mask=m_group[:, None] & (o_low < width), other=0.0).to(tl.float32)
        b_high = tl.load(p_x + o_high, mask=m_high, other=0.0).to(tl.float32)
        b_bytes = tl.load(p_rows + start * G, mask=m_scale[:, :, None], other=0)
        b_0, b_1 = fields_of_4(b_bytes)  # pyright: ignore[reportGeneralTypeIssues]
        b_part = tl.sum(b_0.to(tl.float32) * b_low[None, :, :], 2) - 8.0 * tl.sum(b_low, 1)[None, :]
        b_sums += b_part * tl.load(p_scales + start, mask=m_scale, other=0.0).to(tl.float32)
        b_part = tl.sum(b_1.to(tl.float32) * b_high[None, :, :], 2) - 8.0 * tl.sum(b_high, 1)[None, :]
        b_sums += b_part * tl.load(p_scales + groups + start, mask=m_scale, other=0.0).to(tl.float32)
    b_out = tl.sum(b_sums, 1)
    if HAS_BIAS:
        b_out += tl.load(p_bias + o_row, mask=m_row, other=0.0).to(tl.float32)
    tl.store(p_out + o_row, b_out.to(p_out.dtype.element_ty), mask=m_row)


@triton.jit
def _matrix(
    p_x, p_weight, p_scale, p_bias, p_out, tokens, width, rows, size,
    HAS_BIAS: tl.constexpr, G: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """BLOCK_N outputs of BLOCK_M tokens, one group of each half of the columns a step."""
    tiles_m, tiles_n = tl.cdiv(tokens, BLOCK_M), tl.cdiv(rows, BLOCK_N)
    i_m, i_n = tl.swizzle2d(tl.program_id(0) // tiles_n, tl.program_id(0) % tiles_n, tiles_m, tiles_n, GROUP)
    o_m, o_n = i_m * BLOCK_M + tl.arange(0, BLOCK_M), i_n * BLOCK_N + tl.arange(0, BLOCK_N)
    o_k, m_m, m_n = tl.arange(0, G), o_m < tokens, o_n < rows
    groups = size // G
    p_rows = p_weight + o_n.to(tl.int64)[:, None] * size + o_k[None, :]
    p_scales = p_scale + o_n.to(tl.int64) * (2 * groups)
    p_tokens = p_x + o_m.to(tl.int64)[None, :] * width + o_k[:, None]
    b_sum = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for i_group in range(groups):
        start = i_group * G
        b_low = tl.load(p_tokens + start, mask=(start + o_k < width)[:, None] & m_m[None, :], other=0.0)
        m_high = (start + size + o_k < width)[:, None] & m_m[None, :]
        b_high = tl.load(p_tokens + start + size, mask=m_high, other=0.0)
        b_bytes = tl.load(p_rows + start, mask=m_n[:, None], other=0)
        b_0, b_1 = fields_of_4(b_bytes)  # pyright: ignore[reportGeneralTypeIssues]
        b_scale = tl.load(p_scales + i_group, mask=m_n, other=0.0).to(tl.float32)[:, None]
        b_0 = (b_0.to(tl.float32) * b_scale - 8.0 * b_scale).to(b_low.dtype)
        b_sum = tl.dot(b_0, b_low, b_sum, input_precision="ieee")
        b_scale = tl.load(p_scales + groups + i_group, mask=m_n, other=0.0).to(tl.float32)[:, None]
        b_1 = (b_1.to(tl.float32) * b_scale - 8.0 * b_scale).to(b_low.dtype)
        b_sum = tl.dot(b_1, b_high, b_sum, input_precision="ieee")
    if HAS_BIAS:
        b_sum += tl.load(p_bias + o_n, mask=m_n, other=0.0).to(tl.float32)[:, None]
    p_tile = p_out + o_m.to(tl.int64)[None, :] * rows + o_n[:, None]
    tl.store(p_tile, b_sum.to(p_out.dtype.element_ty), mask=m_n[:, None] & m_m[None, :])


def _vector_rule(key: Key) -> Config:
    """4 rows of 512 bytes: 16 bytes a thread, 1024 weights of each row."""
    groups = power_of_2(ceil_div(int(key["size"]), int(key["group"])))
    return {"BLOCK_OUT": 4, "BLOCK_IN": min(groups, 512 // int(key["group"])), "num_warps": 4}


def _vector_space(key: Key) -> tuple[Config, ...]:
    return tuple(
        {"BLOCK_OUT": rows, "BLOCK_IN": size // int(key["group"]), "num_warps": warps}
        for rows in (1, 2, 4, 8)
        for size in (256, 512, 1024)
        for warps in (2, 4, 8)
    )


def _matrix_rule(key: Key) -> Config:
    """Few tokens: tiles of 64 rows, for bandwidth; four stages of 64 tokens and of groups of 128 take 120 KiB, so two
    where a block has less. Many: 128 by 128, for the matrix units."""
    if key["dtype"] == "float32":
        return {"BLOCK_M": 16, "BLOCK_N": 32, "GROUP": 8, "num_warps": 4, "num_stages": 2}
    if int(key["tokens"]) <= 64:
        block = max(16, int(key["tokens"]))
        is_large = block == 64 and key["group"] == 128
        stages = 2 if is_large and launch_target().shared_memory < 120 * KIB else 4
        return {"BLOCK_M": block, "BLOCK_N": 64, "GROUP": 1, "num_warps": 4, "num_stages": stages}
    return {"BLOCK_M": 128, "BLOCK_N": 128, "GROUP": 8, "num_warps": 8, "num_stages": 4 if key["group"] == 32 else 2}


def _matrix_space(key: Key) -> tuple[Config, ...]:
    return tuple(
        {"BLOCK_M": m, "BLOCK_N": n, "GROUP": 8, "num_warps": warps, "num_stages": stages}
        for m in ((16, 32, 64) if int(key["tokens"]) <= 64 else (64, 128))
        for n in (64, 128)
        for warps, stages in ((4, 2), (4, 3), (4, 4), (8, 2), (8, 3))
    )


VECTOR = Tunable(name="int4_vector", rule=_vector_rule, space=_vector_space)
MATRIX = Tunable(name="int4_matrix", rule=_matrix_rule, space=_matrix_space)
TUNABLES = (VECTOR, MATRIX)


def _launch(x: Tensor, packed: Tensor, bias: Tensor | None, group: int) -> Tensor:
    x = x.contiguous()
    tokens, width = x.shape
    out = _fake(x, packed, bias, group)
    rows, size = out.shape[1], padded(width, group) // 2
    scale = packed[rows * size :].view(torch.float16)
    key = {"rows": rows, "size": size, "group": group, "dtype": str(x.dtype).removeprefix("torch.")}
    if tokens == 1:
        config = VECTOR.config(key)
        launchable(_vector)[(ceil_div(rows, config["BLOCK_OUT"]),)](
            x, packed, scale, bias, out, width, rows, size, HAS_BIAS=bias is not None, G=group, **config
        )
    elif tokens:
        config = MATRIX.config(key | {"tokens": min(4096, power_of_2(tokens))})
        launchable(_matrix)[(ceil_div(tokens, config["BLOCK_M"]) * ceil_div(rows, config["BLOCK_N"]),)](
            x, packed, scale, bias, out, tokens, width, rows, size, HAS_BIAS=bias is not None, G=group, **config
        )
    return out


def _fake(x: Tensor, packed: Tensor, bias: Tensor | None, group: int) -> Tensor:
    return x.new_empty((len(x), rows_of(packed, x.shape[1], group)))


def _reference(x: Tensor, packed: Tensor, bias: Tensor | None, group: int) -> Tensor:
    return linear(x=x, weight=dequantised(packed, x.shape[1], group).to(x.dtype), bias=bias)


_product = gpu_op("int4_product", _launch, fake=_fake, reference=_reference)


def int4_linear(*, x: Tensor, weight: Tensor, bias: Tensor | None = None, group: int = 32) -> Tensor:
    """As `linear` of the reference, but for `weight`, which `triton_pack.pack_int4` has made, or `pack_int4_128`."""
    out = _product(x.reshape(-1, x.shape[-1]), weight, bias, group)
    return out.view(*x.shape[:-1], out.shape[-1])
