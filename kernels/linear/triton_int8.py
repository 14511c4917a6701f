"""Linear layers with 8-bit weights in Triton, activations as they are: a scale for each row of the weight.

One token is bound by the packed bytes: lanes multiply and are summed once at the end. More tokens go through the matrix
units: whole numbers to 127 are exact in 16 bits, and the scale is applied to the sums.
"""

# pyright: basic
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..gpu.tuning import Config, Key, Tunable
from .reference import linear
from .triton_pack import dequantised, padded, rows_of


@triton.jit
def _vector(
    p_x, p_weight, p_scale, p_bias, p_out, width, rows, size,
    HAS_BIAS: tl.constexpr, BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr,
):  # fmt: skip
    """BLOCK_OUT outputs of the only token."""
    o_row, o_in = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT), tl.arange(0, BLOCK_IN)
    m_row = o_row < rows
    p_rows = p_weight + o_row.to(tl.int64)[:, None] * size + o_in[None, :]
    b_sums = tl.zeros((BLOCK_OUT, BLOCK_IN), tl.float32)
    for start in range(0, size, BLOCK_IN):
        b_x = tl.load(p_x + start + o_in, mask=start + o_in < width, other=0.0).to(tl.float32)
        b_weight = tl.load(p_rows + start, mask=m_row[:, None] & (start + o_in < size)[None, :], other=0)
        b_sums += b_weight.to(tl.float32) * b_x[None, :]
    b_out = tl.sum(b_sums, 1) * tl.load(p_scale + o_row, mask=m_row, other=0.0)
    if HAS_BIAS:
        b_out += tl.load(p_bias + o_row, mask=m_row, other=0.0).to(tl.float32)
    tl.store(p_out + o_row, b_out.to(p_out.dtype.element_ty), mask=m_row)


@triton.jit
def _matrix(
    p_x, p_weight, p_scale, p_bias, p_out, tokens, width, rows, size,
    HAS_BIAS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """BLOCK_N outputs of BLOCK_M tokens; the weights are the left operand, made in registers."""
    tiles_m, tiles_n = tl.cdiv(tokens, BLOCK_M), tl.cdiv(rows, BLOCK_N)
    i_m, i_n = tl.swizzle2d(tl.program_id(0) // tiles_n, tl.program_id(0) % tiles_n, tiles_m, tiles_n, GROUP)
    o_m, o_n = i_m * BLOCK_M + tl.arange(0, BLOCK_M), i_n * BLOCK_N + tl.arange(0, BLOCK_N)
    o_k, m_m, m_n = tl.arange(0, BLOCK_K), o_m < tokens, o_n < rows
    p_rows = p_weight + o_n.to(tl.int64)[:, None] * size + o_k[None, :]
    p_tokens = p_x + o_m.to(tl.int64)[None, :] * width + o_k[:, None]
    b_sum = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for start in range(0, width, BLOCK_K):
        m_k = start + o_k < width
        b_x = tl.load(p_tokens + start, mask=m_k[:, None] & m_m[None, :], other=0.0)
        b_weight = tl.load(p_rows + start, mask=m_n[:, None] & m_k[None, :], other=0)
        b_sum = tl.dot(b_weight.to(b_x.dtype), b_x, b_sum, input_precision="ieee")
    b_out = b_sum * tl.load(p_scale + o_n, mask=m_n, other=0.0)[:, None]
    if HAS_BIAS:
        b_out += tl.load(p_bias + o_n, mask=m_n, other=0.0).to(tl.float32)[:, None]
    p_tile = p_out + o_m.to(tl.int64)[None, :] * rows + o_n[:, None]
    tl.store(p_tile, b_out.to(p_out.dtype.element_ty), mask=m_n[:, None] & m_m[None, :])


def _vector_rule(key: Key) -> Config:
    """4 rows of 1 KiB: two loads of 16 bytes a thread; the bytes in flight come from many small programs."""
    return {"BLOCK_OUT": 4, "BLOCK_IN": min(1024, power_of_2(int(key["size"]))), "num_warps": 4}


def _vector_space(key: Key) -> tuple[Config, ...]:
    return tuple(
        {"BLOCK_OUT": rows, "BLOCK_IN": size, "num_warps": warps}
        for rows in (1, 2, 4, 8)
        for size in (512, 1024, 2048)
        for warps in (2, 4, 8)
    )


def _matrix_rule(key: Key) -> Config:
    """Few tokens: tiles of 64 rows, for bandwidth. Many: 128 by 128, for the matrix units."""
    if key["dtype"] == "float32":
        return {"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 32, "GROUP": 8, "num_warps": 4, "num_stages": 2}
    if int(key["tokens"]) <= 64:
        block = max(16, int(key["tokens"]))
        return {"BLOCK_M": block, "BLOCK_N": 64, "BLOCK_K": 128, "GROUP": 1, "num_warps": 4, "num_stages": 4}
    return {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "GROUP": 8, "num_warps": 8, "num_stages": 4}


def _matrix_space(key: Key) -> tuple[Config, ...]:
    return tuple(
        {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "GROUP": 8, "num_warps": warps, "num_stages": stages}
        for m in ((16, 32, 64) if int(key["tokens"]) <= 64 else (64, 128, 256))
        for n in (64, 128)
        for k in (64, 128)
        for warps, stages in ((4, 3), (4, 4), (8, 3), (8, 4))
    )


VECTOR = Tunable(name="int8_vector", rule=_vector_rule, space=_vector_space)
MATRIX = Tunable(name="int8_matrix", rule=_matrix_rule, space=_matrix_space)
TUNABLES = (VECTOR, MATRIX)


def _launch(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    x = x.contiguous()
    tokens, width = x.shape
    out = _fake(x, packed, bias)
    rows, size = out.shape[1], padded(width, 1)
    scale = packed[rows * size :].view(torch.float32)
    dtype = str(x.dtype).removeprefix("torch.")
    if tokens == 1:
        config = VECTOR.config({"rows": rows, "size": size, "dtype": dtype})
        launchable(_vector)[(ceil_div(rows, config["BLOCK_OUT"]),)](
            x, packed.view(torch.int8), scale, bias, out, width, rows, size, HAS_BIAS=bias is not None, **config
        )
    elif tokens:
        config = MATRIX.config({"rows": rows, "size": size, "tokens": min(4096, power_of_2(tokens)), "dtype": dtype})
        launchable(_matrix)[(ceil_div(tokens, config["BLOCK_M"]) * ceil_div(rows, config["BLOCK_N"]),)](
            x, packed.view(torch.int8), scale, bias, out, tokens, width, rows, size, HAS_BIAS=bias is not None, **config
        )
    return out


def _fake(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((len(x), rows_of(packed, x.shape[1], 1)))


def _reference(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    return linear(x=x, weight=dequantised(packed, x.shape[1], 1).to(x.dtype), bias=bias)


_product = gpu_op("int8_product", _launch, fake=_fake, reference=_reference)


def int8_linear(*, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `linear` of the reference, but for `weight`, which `triton_pack.pack_int8` has made."""
    out = _product(x.reshape(-1, x.shape[-1]), weight, bias)
    return out.view(*x.shape[:-1], out.shape[-1])
