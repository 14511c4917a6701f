"""Ternary linear layers in Triton: 2-bit weights times int8 activations in whole numbers, exact up to their rounding.

Few tokens are `triton_vector`'s. The others are rounded in one launch, after their sum and their norm where there are,
once for all that is projected from them, and multiplied in another, which is bound by int8 matrix work: the weights are
unpacked in registers, the left operand.
"""

# pyright: basic
from __future__ import annotations

from typing import cast

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from ..gpu.bytes import fields_of_2
from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..gpu.target import KIB, launch_target
from ..gpu.tuning import Config, Key, Tunable
from ..kernel import Request
from ..norm.triton_quantise import normed_rows
from ..pointwise.reference import ActivationKind
from ..pointwise.triton_activation import gated_activation_packed
from ..record import called_with
from .fields import AddRmsNormTernaryProjection, RmsNormTernaryProjection, TernaryLinear, TernaryProjection
from .triton_pack import rows_of, scales_of, unpack
from .triton_vector import Layer, layer, serves_few

WIDEST = 32768
"""Features of a row that is quantised at once."""


def serves(request: Request) -> str | None:
    """None, or why the layer cannot run in whole numbers."""
    if request.dtype == "float64":
        return "scales are float32"
    bits = request.fields.get("activation_bits")
    if not isinstance(bits, int) or bits > 8:
        return f"activations of {bits or 'no'} bits do not fit int8"
    width = request.shapes["residual" if "residual" in request.shapes else "x"][-1]
    if not isinstance(width, int) or width > WIDEST:
        return f"a row of {width} features is wider than {WIDEST}"
    return None


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
    b_scale = tl.load(p_scale + o_n, mask=m_n, other=0.0)[:, None]
    b_out = b_sum.to(tl.float32) * (b_scale / tl.load(p_factor + o_m, mask=m_m, other=1.0)[None, :])
    if HAS_BIAS:
        b_out += tl.load(p_bias + o_n, mask=m_n, other=0.0).to(tl.float32)[:, None]
    p_tile = p_out + o_m.to(tl.int64)[None, :] * rows + o_n[:, None]
    tl.store(p_tile, b_out.to(p_out.dtype.element_ty), mask=m_n[:, None] & m_m[None, :])


def _matrix_rule(key: Key) -> Config:
    """Few tokens: narrow tiles of many rows' halves, for bandwidth, in four stages, of 120 KiB for 64 tokens. Many: 128
    by 128, for the matrix units, in three of 112 KiB. A stage less where a block has not so much."""
    has_less = launch_target().shared_memory < 120 * KIB
    if int(key["tokens"]) <= 64:
        block = max(16, int(key["tokens"]))
        stages = 3 if block == 64 and has_less else 4
        return {"BLOCK_M": block, "BLOCK_N": 64, "BLOCK_K": 128, "GROUP": 1, "num_warps": 4, "num_stages": stages}
    stages = 2 if has_less else 3
    return {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "GROUP": 8, "num_warps": 8, "num_stages": stages}


def _matrix_space(key: Key) -> tuple[Config, ...]:
    tokens = (16, 32, 64) if int(key["tokens"]) <= 64 else (64, 128, 256)
    return tuple(
        {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "GROUP": 8, "num_warps": warps, "num_stages": stages}
        for m in tokens
        for n in (64, 128)
        for k in (64, 128)
        for warps, stages in ((4, 3), (4, 4), (8, 3), (8, 4))
    )


MATRIX = Tunable(name="ternary_matrix", rule=_matrix_rule, space=_matrix_space)
TUNABLES = (MATRIX,)


def _launch(
    whole: Tensor, factor: Tensor, count: Tensor, packed: Tensor, bias: Tensor | None, width: int, dtype: torch.dtype
) -> Tensor:  # fmt: skip
    out = _fake(whole, factor, count, packed, bias, width, dtype)
    tokens, rows = out.shape
    if tokens:
        size = whole.shape[-1] // 4
        config = MATRIX.config({"rows": rows, "size": size, "tokens": min(4096, power_of_2(tokens))})
        launchable(_matrix)[(ceil_div(tokens, config["BLOCK_M"]) * ceil_div(rows, config["BLOCK_N"]),)](
            whole, packed, scales_of(packed, width), factor, count, bias, out, tokens, rows, size,
            HAS_BIAS=bias is not None, **config,
        )  # fmt: skip
    return out


def _fake(
    whole: Tensor, factor: Tensor, count: Tensor, packed: Tensor, bias: Tensor | None, width: int, dtype: torch.dtype
) -> Tensor:  # fmt: skip
    return whole.new_empty((len(whole), rows_of(packed, width)), dtype=dtype)


def _reference(
    whole: Tensor, factor: Tensor, count: Tensor, packed: Tensor, bias: Tensor | None, width: int, dtype: torch.dtype
) -> Tensor:  # fmt: skip
    ternary, scales = unpack(packed, width)
    out = functional.linear(whole[:, :width].double(), ternary.double()) * (scales / factor.double()[:, None])
    return (out if bias is None else out + bias.double()).to(dtype)


_product = gpu_op("ternary_product", _launch, fake=_fake, reference=_reference)


def _layer(given: Layer) -> tuple[Tensor, Tensor]:
    """One launch for few tokens; for more, one that norms and rounds, one that multiplies, and the gate's."""
    x, width = given.x, given.x.shape[-1]
    if serves_few(x):
        return layer(given)
    whole, factor, count, total = normed_rows(
        x=x, delta=given.delta, weight=given.norm_weight, has_norm=given.has_norm, eps=given.eps,
        weight_offset=given.weight_offset, bits=given.bits, multiple=4 * 16,
    )  # fmt: skip
    out = _product(whole.flatten(0, -2), factor.flatten(), count.flatten(), given.packed, given.bias, width, x.dtype)
    out = out.view(*x.shape[:-1], out.shape[-1])
    if given.kind:
        out = gated_activation_packed(x=out, kind=cast("ActivationKind", given.kind))
    return out, total


@called_with(TernaryLinear)
def ternary_linear(given: TernaryLinear) -> Tensor:
    """Arguments and result are those of the reference, but for `weight`, which `triton_pack.pack` has made."""
    return _layer(Layer.of(given, given.x))[0]


@called_with(TernaryProjection)
def ternary_projection(given: TernaryProjection) -> Tensor:
    """Arguments and result are those of the reference, but for `weight`, which was packed with its `parts`."""
    return _layer(Layer.of(given, given.x))[0]


@called_with(RmsNormTernaryProjection)
def rms_norm_ternary_projection(given: RmsNormTernaryProjection) -> Tensor:
    """Arguments and result are those of the reference, but for `weight`, which was packed with its `parts`."""
    return _layer(Layer.of(given, given.x))[0]


@called_with(AddRmsNormTernaryProjection)
def add_rms_norm_ternary_projection(given: AddRmsNormTernaryProjection) -> tuple[Tensor, Tensor]:
    """Arguments and results are those of the reference, but for `weight`, which was packed with its `parts`."""
    return _layer(Layer.of(given, given.residual, given.delta))
