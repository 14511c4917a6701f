"""Ternary linear layers in Triton: 2-bit weights times int8 activations in whole numbers, exact up to their rounding.

A vector is bound by the packed bytes (O * I / 4): four weights of one field times four activations are one instruction
behind one mask, two for four weights, which four multiprocessor pipes of 132 keep up to 7 TB/s. Fields are not
shifted: field f counts 4^f times, in a sum of its own, which is divided at the end without a rest. Matrices are bound
by int8 matrix work; the weights are unpacked in registers, the left operand.
"""

# pyright: basic
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from ..gpu.bytes import dot4, fields_of_2
from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..gpu.tuning import Config, Key, Tunable
from ..kernel import Request
from ..norm.triton_quantise import quantised_rows
from .triton_pack import TAIL, rows_of, unpack

WIDEST = 32768
"""Features of a row that is quantised at once."""
FEW = 4
"""Tokens up to which each reads the weights for itself, from the second on out of the cache."""
_FIELD_0, _FIELD_1 = tl.constexpr(0x03030303), tl.constexpr(0x0C0C0C0C)
_FIELD_2, _FIELD_3 = tl.constexpr(0x30303030), tl.constexpr(0xC0C0C0C0 - (1 << 32))


def serves(request: Request) -> str | None:
    """None, or why the layer cannot run in whole numbers."""
    if request.dtype == "float64":
        return "scales are float32"
    bits = request.fields.get("activation_bits")
    if not isinstance(bits, int) or bits > 8:
        return f"activations of {bits or 'no'} bits do not fit int8"
    width = request.shapes["x"][-1]
    if not isinstance(width, int) or width > WIDEST:
        return f"a row of {width} features is wider than {WIDEST}"
    return None


@triton.jit
def _vector(
    p_x, p_weight, p_scale, p_factor, p_count, p_bias, p_out, rows, words,
    HAS_BIAS: tl.constexpr, BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr,
):  # fmt: skip
    """BLOCK_OUT outputs of one token; `words` of 4 bytes are a row of the weights and a quarter of the activations."""
    i_token, o_row = tl.program_id(1).to(tl.int64), tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    o_in, m_row = tl.arange(0, BLOCK_IN), o_row < rows
    p_x += i_token * 4 * words
    o_weight = o_row.to(tl.int64)[:, None] * words + o_in[None, :]
    b_0, b_1 = tl.zeros((BLOCK_OUT, BLOCK_IN), tl.int32), tl.zeros((BLOCK_OUT, BLOCK_IN), tl.int32)
    b_2, b_3 = tl.zeros((BLOCK_OUT, BLOCK_IN), tl.int32), tl.zeros((BLOCK_OUT, BLOCK_IN), tl.int32)
    for start in range(0, words, BLOCK_IN):
        m_in = start + o_in < words
        b_weight = tl.load(p_weight + o_weight + start, mask=m_row[:, None] & m_in[None, :], other=0)
        o_x = start + o_in
        b_0 = dot4(b_weight & _FIELD_0, tl.load(p_x + o_x, mask=m_in, other=0)[None, :], b_0)
        b_1 = dot4(b_weight & _FIELD_1, tl.load(p_x + words + o_x, mask=m_in, other=0)[None, :], b_1)
        b_2 = dot4(b_weight & _FIELD_2, tl.load(p_x + 2 * words + o_x, mask=m_in, other=0)[None, :], b_2)
        b_3 = dot4(b_weight & _FIELD_3, tl.load(p_x + 3 * words + o_x, mask=m_in, other=0)[None, :], b_3)
    b_sum = tl.sum(b_0 + (b_1 >> 2) + (b_2 >> 4) + (b_3 >> 6), 1) - tl.load(p_count + i_token)
    b_out = b_sum.to(tl.float32) * (tl.load(p_scale) / tl.load(p_factor + i_token))
    if HAS_BIAS:
        b_out += tl.load(p_bias + o_row, mask=m_row, other=0.0).to(tl.float32)
    tl.store(p_out + i_token * rows + o_row, b_out.to(p_out.dtype.element_ty), mask=m_row)


@triton.jit
def _matrix(
    p_x, p_weight, p_scale, p_factor, p_count, p_bias, p_out, tokens, rows, size,
    HAS_BIAS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """BLOCK_N outputs of BLOCK_M tokens, BLOCK_K packed bytes a step. GROUP tiles of outputs share their tokens."""
    tiles_m, tiles_n = tl.cdiv(tokens, BLOCK_M), tl.cdiv(rows, BLOCK_N)
    i_m, i_n = tl.swizzle2d(tl.program_id(0) // tiles_n, tl.program_id(0) % tiles_n, tiles_m, tiles_n, GROUP)
    o_m, o_n = i_m * BLOCK_M + tl.arange(0, BLOCK_M), i_n * BLOCK_N + tl.arange(0, BLOCK_N)
    o_k, m_m, m_n = tl.arange(0, BLOCK_K), o_m < tokens, o_n < rows
    p_rows = p_weight + o_n.to(tl.int64)[:, None] * size + o_k[None, :]
    p_tokens = p_x + o_m.to(tl.int64)[None, :] * (4 * size) + o_k[:, None]
    b_sum = tl.zeros((BLOCK_N, BLOCK_M), tl.int32)
    for start in range(0, size, BLOCK_K):
        m_k = start + o_k < size
        m_x = m_k[:, None] & m_m[None, :]
        b_bytes = tl.load(p_rows + start, mask=m_n[:, None] & m_k[None, :], other=0)
        b_0, b_1, b_2, b_3 = fields_of_2(b_bytes)
        p_step = p_tokens + start
        b_sum = tl.dot(b_0, tl.load(p_step, mask=m_x, other=0), b_sum, out_dtype=tl.int32)
        b_sum = tl.dot(b_1, tl.load(p_step + size, mask=m_x, other=0), b_sum, out_dtype=tl.int32)
        b_sum = tl.dot(b_2, tl.load(p_step + 2 * size, mask=m_x, other=0), b_sum, out_dtype=tl.int32)
        b_sum = tl.dot(b_3, tl.load(p_step + 3 * size, mask=m_x, other=0), b_sum, out_dtype=tl.int32)
    b_sum -= tl.load(p_count + o_m, mask=m_m, other=0)[None, :]
    b_scale = tl.load(p_scale) / tl.load(p_factor + o_m, mask=m_m, other=1.0)
    b_out = b_sum.to(tl.float32) * b_scale[None, :]
    if HAS_BIAS:
        b_out += tl.load(p_bias + o_n, mask=m_n, other=0.0).to(tl.float32)[:, None]
    p_tile = p_out + o_m.to(tl.int64)[None, :] * rows + o_n[:, None]
    tl.store(p_tile, b_out.to(p_out.dtype.element_ty), mask=m_n[:, None] & m_m[None, :])


def _vector_rule(key: Key) -> Config:
    """8 rows of 1 KiB a program of 4 warps: four loads of 16 bytes a thread, and some 4 programs a multiprocessor."""
    return {"BLOCK_OUT": 8, "BLOCK_IN": min(256, power_of_2(int(key["words"]))), "num_warps": 4}


def _vector_space(key: Key) -> tuple[Config, ...]:
    return tuple(
        {"BLOCK_OUT": out, "BLOCK_IN": words, "num_warps": warps}
        for out in (2, 4, 8, 16)
        for words in (128, 256, 512)
        for warps in (2, 4, 8)
    )


def _matrix_rule(key: Key) -> Config:
    """Few tokens: narrow tiles of many rows' halves, for bandwidth. Many: 128 by 128, for the matrix units."""
    if int(key["tokens"]) <= 64:
        block = max(16, int(key["tokens"]))
        return {"BLOCK_M": block, "BLOCK_N": 64, "BLOCK_K": 128, "GROUP": 1, "num_warps": 4, "num_stages": 4}
    return {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "GROUP": 8, "num_warps": 8, "num_stages": 3}


def _matrix_space(key: Key) -> tuple[Config, ...]:
    tokens = (16, 32, 64) if int(key["tokens"]) <= 64 else (64, 128, 256)
    return tuple(
        {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "GROUP": 8, "num_warps": warps, "num_stages": stages}
        for m in tokens
        for n in (64, 128)
        for k in (64, 128)
        for warps, stages in ((4, 3), (4, 4), (8, 3), (8, 4))
    )


VECTOR = Tunable(name="ternary_vector", rule=_vector_rule, space=_vector_space)
MATRIX = Tunable(name="ternary_matrix", rule=_matrix_rule, space=_matrix_space)
TUNABLES = (VECTOR, MATRIX)


def _launch(
    whole: Tensor, factor: Tensor, count: Tensor, packed: Tensor, bias: Tensor | None, rows: int,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    tokens, size = len(whole), whole.shape[-1] // 4
    out = whole.new_empty((tokens, rows), dtype=dtype)
    if not tokens:
        return out
    scale = packed[-TAIL:].view(torch.float32)
    if tokens <= FEW:
        words = size // 4
        config = VECTOR.config({"rows": rows, "words": words})
        launchable(_vector)[(ceil_div(rows, config["BLOCK_OUT"]), tokens)](
            whole.view(torch.int32), packed.view(torch.int32), scale, factor, count, bias, out, rows, words,
            HAS_BIAS=bias is not None, **config,
        )  # fmt: skip
    else:
        config = MATRIX.config({"rows": rows, "size": size, "tokens": min(4096, power_of_2(tokens))})
        launchable(_matrix)[(ceil_div(tokens, config["BLOCK_M"]) * ceil_div(rows, config["BLOCK_N"]),)](
            whole, packed, scale, factor, count, bias, out, tokens, rows, size, HAS_BIAS=bias is not None,
            **config,
        )  # fmt: skip
    return out


def _fake(
    whole: Tensor, factor: Tensor, count: Tensor, packed: Tensor, bias: Tensor | None, rows: int,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    return whole.new_empty((len(whole), rows), dtype=dtype)


def _reference(
    whole: Tensor, factor: Tensor, count: Tensor, packed: Tensor, bias: Tensor | None, rows: int,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    ternary, scale = unpack(packed, whole.shape[-1])
    out = functional.linear(whole.double(), ternary.double()) * (scale.double() / factor.double()[:, None])
    return (out if bias is None else out + bias.double()).to(dtype)


_product = gpu_op("ternary_product", _launch, fake=_fake, reference=_reference)


def ternary_linear(*, x: Tensor, weight: Tensor, bias: Tensor | None = None, activation_bits: int | None = 8) -> Tensor:
    """Arguments and result are those of the reference, but for `weight`, which `triton_pack.pack` has made."""
    assert activation_bits is not None
    width = x.shape[-1]
    whole, factor, count = quantised_rows(x=x.reshape(-1, width), bits=activation_bits, multiple=4 * 16)
    rows = rows_of(weight, width)
    out = _product(whole, factor.flatten(), count.flatten(), weight, bias, rows, x.dtype)
    return out.view(*x.shape[:-1], rows)
