"""Experts of packed weights for few tokens in Triton: each (token, expert) pair a vector times a matrix.

Floor: the packed bytes of the experts that were picked. Two launches: the inner units with their activation, then the
outputs, summed over a token's picks in order of experts inside a program. Activations stay as they are beside int8 and
int4, and are rounded beside ternary weights; the bytes in flight come from many small programs, as in the linear layers
of these formats.
"""

# pyright: basic
from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.activations import activate
from ..gpu.bytes import fields_of_4
from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..gpu.tuning import Config, Key, Tunable
from . import triton_experts_ternary
from .operands import Operands, empty
from .triton_experts_ternary import inner_rule, inner_space, outputs_of_2, units_of_2
from .triton_stack import GROUP, packed_by_reference, row_of, rows_of, scales_of


@triton.jit
def _products_of_8(p_x, p_matrix, p_scale, o_row, m_row, width, size, BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr):
    """Some rows of an int8 matrix times x: [BLOCK_OUT]."""
    o_in = tl.arange(0, BLOCK_IN)
    p_rows = p_matrix + o_row.to(tl.int64)[:, None] * size + o_in[None, :]
    b_sums = tl.zeros((BLOCK_OUT, BLOCK_IN), tl.float32)
    for start in range(0, size, BLOCK_IN):
        b_x = tl.load(p_x + start + o_in, mask=start + o_in < width, other=0.0).to(tl.float32)
        b_weight = tl.load(p_rows + start, mask=m_row[:, None] & (start + o_in < size)[None, :], other=0)
        b_sums += b_weight.to(tl.int8, bitcast=True).to(tl.float32) * b_x[None, :]
    return tl.sum(b_sums, 1) * tl.load(p_scale + o_row, mask=m_row, other=0.0)


@triton.jit
def _products_of_4(
    p_x, p_matrix, p_scale, o_row, m_row, width, size,
    G: tl.constexpr, BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr,
):  # fmt: skip
    """Some rows of an int4 matrix times x, BLOCK_IN groups of the rows' `size` bytes a step: [BLOCK_OUT]."""
    o_group, groups = tl.arange(0, BLOCK_IN), size // G
    o_in = o_group[:, None] * G + tl.arange(0, G)[None, :]
    p_rows = p_matrix + o_row.to(tl.int64)[:, None, None] * size + o_in[None, :, :]
    p_scales = p_scale + o_row.to(tl.int64)[:, None] * (2 * groups) + o_group[None, :]
    b_sums = tl.zeros((BLOCK_OUT, BLOCK_IN), tl.float32)
    for start in range(0, groups, BLOCK_IN):
        m_group = start + o_group < groups
        m_scale = m_row[:, None] & m_group[None, :]
        o_low, o_high = start * G + o_in, start * G + o_in + size
        b_low = tl.load(p_x + o_low, mask=m_group[:, None] & (o_low < width), other=0.0).to(tl.float32)
        b_high = tl.load(p_x + o_high, mask=m_group[:, None] & (o_high < width), other=0.0).to(tl.float32)
        b_0, b_1 = fields_of_4(tl.load(p_rows + start * G, mask=m_scale[:, :, None], other=0))  # pyright: ignore[reportGeneralTypeIssues]
        b_part = tl.sum(b_0.to(tl.float32) * b_low[None, :, :], 2) - 8.0 * tl.sum(b_low, 1)[None, :]
        b_sums += b_part * tl.load(p_scales + start, mask=m_scale, other=0.0).to(tl.float32)
        b_part = tl.sum(b_1.to(tl.float32) * b_high[None, :, :], 2) - 8.0 * tl.sum(b_high, 1)[None, :]
        b_sums += b_part * tl.load(p_scales + groups + start, mask=m_scale, other=0.0).to(tl.float32)
    return tl.sum(b_sums, 1)


@triton.jit
def _products(
    p_x, p_stack, p_scales, expert, rows, o_row, m_row, width, size, scales,
    G: tl.constexpr, BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr,
):  # fmt: skip
    """Some rows of one expert's matrix of `rows` rows, each of `size` bytes and `scales` scales."""
    SCALE_BYTES: tl.constexpr = 4 if G == 1 else 2  # pyright: ignore[reportAssignmentType]
    p_matrix = p_stack + expert * rows * (size + scales * SCALE_BYTES)
    p_scale = p_scales + expert * rows * (size // SCALE_BYTES + scales) + rows.to(tl.int64) * (size // SCALE_BYTES)
    if G == 1:
        b_out = _products_of_8(p_x, p_matrix, p_scale, o_row, m_row, width, size, BLOCK_OUT, BLOCK_IN)
    else:
        b_out = _products_of_4(p_x, p_matrix, p_scale, o_row, m_row, width, size, G, BLOCK_OUT, BLOCK_IN)
    return b_out


@triton.jit
def _inner_units(
    p_x, p_weights, p_experts, p_gate, p_gate_scales, p_up, p_up_scales, p_gate_bias, p_up_bias, p_hidden, p_order,
    M, F, rows, up_row, size, scales, s_bias, limit, up_offset,
    K: tl.constexpr, KIND: tl.constexpr, IS_GATED: tl.constexpr, IS_INTERLEAVED: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_LIMIT: tl.constexpr, WEIGHS_INPUT: tl.constexpr, G: tl.constexpr,
    BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """BLOCK_OUT inner units of one pair. The first program of a pair also writes where it stands among its token's."""
    i_pair, i_tile = tl.program_id(0), tl.program_id(1)
    i_token = (i_pair // K).to(tl.int64)
    expert = tl.load(p_experts + i_pair)
    if i_tile == 0:
        o_k = tl.arange(0, BLOCK_K)
        i_k = i_pair % K
        b_expert = tl.load(p_experts + i_token * K + o_k, mask=o_k < K, other=0)
        m_before = (o_k < K) & ((b_expert < expert) | ((b_expert == expert) & (o_k < i_k)))
        tl.store(p_order + i_token * K + tl.sum(m_before.to(tl.int32), 0), i_k)
    TWO: tl.constexpr = IS_GATED and not IS_INTERLEAVED  # pyright: ignore[reportAssignmentType]
    LANES: tl.constexpr = 2 * BLOCK_OUT if IS_INTERLEAVED else BLOCK_OUT
    o_row = i_tile * LANES + tl.arange(0, LANES)
    m_row = o_row < (2 * F if IS_INTERLEAVED else F)
    p_row = p_x + i_token * M
    if G == 0:
        b_gate, b_up = units_of_2(  # pyright: ignore[reportGeneralTypeIssues]
            p_row, p_gate, p_gate_scales, p_up, p_up_scales, expert, rows, o_row, up_row + o_row, m_row, M, size // 4,
            TWO, BLOCK_IN,
        )  # fmt: skip
    else:
        b_up = _products(
            p_row, p_up, p_up_scales, expert, rows, up_row + o_row, m_row, M, size, scales, G, LANES, BLOCK_IN
        )
        b_gate = b_up
        if TWO:
            b_gate = _products(
                p_row, p_gate, p_gate_scales, expert, rows, o_row, m_row, M, size, scales, G, LANES, BLOCK_IN
            )
    if WEIGHS_INPUT:
        share = tl.load(p_weights + i_pair).to(tl.float32)
        b_up, b_gate = b_up * share, b_gate * share
    if HAS_BIAS:
        b_up += tl.load(p_up_bias + expert * s_bias + o_row, mask=m_row, other=0.0).to(tl.float32)
        if TWO:
            b_gate += tl.load(p_gate_bias + expert * s_bias + o_row, mask=m_row, other=0.0).to(tl.float32)
    if IS_INTERLEAVED:
        b_gate, b_up = tl.split(tl.reshape(b_up, (BLOCK_OUT, 2)))
    if HAS_LIMIT:
        b_up = tl.minimum(tl.maximum(b_up, -limit), limit)
        b_gate = tl.minimum(b_gate, limit)
    b_hidden = activate(b_gate, KIND) * (b_up + up_offset) if IS_GATED else activate(b_up, KIND)
    o_unit = i_tile * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    tl.store(p_hidden + i_pair.to(tl.int64) * F + o_unit, b_hidden, mask=o_unit < F)


@triton.jit
def _outputs(
    p_hidden, p_weights, p_experts, p_order, p_down, p_scales, p_bias, p_out, M, F, size, scales,
    K: tl.constexpr, HAS_BIAS: tl.constexpr, WEIGHS_OUTPUT: tl.constexpr, G: tl.constexpr,
    BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr,
):  # fmt: skip
    """BLOCK_OUT outputs of one token, of all its picks."""
    i_token = tl.program_id(0).to(tl.int64)
    o_out = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    m_out = o_out < M
    b_out = tl.zeros((BLOCK_OUT,), tl.float32)
    for i_pick in range(K):
        i_pair = i_token * K + tl.load(p_order + i_token * K + i_pick)
        expert = tl.load(p_experts + i_pair)
        p_row = p_hidden + i_pair * F
        b_part = _products(p_row, p_down, p_scales, expert, M, o_out, m_out, F, size, scales, G, BLOCK_OUT, BLOCK_IN)
        if HAS_BIAS:
            b_part += tl.load(p_bias + expert * M + o_out, mask=m_out, other=0.0).to(tl.float32)
        if WEIGHS_OUTPUT:
            b_part = b_part * tl.load(p_weights + i_pair).to(tl.float32)
        b_out += b_part
    tl.store(p_out + i_token * M + o_out, b_out.to(p_out.dtype.element_ty), mask=m_out)


def _rule(key: Key) -> Config:
    """4 rows of 512 bytes or 1 KiB, as the linear layers of the format."""
    size, group = int(key["size"]), int(key["group"])
    if group == 0:
        return inner_rule(key)
    block_in = min(1024, power_of_2(size)) if group == 1 else min(power_of_2(ceil_div(size, group)), 512 // group)
    return {"BLOCK_OUT": 4, "BLOCK_IN": block_in, "num_warps": 4}


def _space(key: Key) -> tuple[Config, ...]:
    group = int(key["group"])
    if group == 0:
        return inner_space(key)
    return tuple(
        {"BLOCK_OUT": rows, "BLOCK_IN": size // group, "num_warps": warps}
        for rows in (2, 4, 8)
        for size in (256, 512, 1024)
        for warps in (2, 4, 8)
    )


INNER_UNITS = Tunable(name="experts_packed_inner", rule=_rule, space=_space)
OUTPUTS = Tunable(name="experts_packed_outputs", rule=_rule, space=_space)
TUNABLES = (INNER_UNITS, OUTPUTS, *triton_experts_ternary.TUNABLES)


def _launch(given: Operands, format: str) -> Tensor:
    given, out = given.dense(), empty(given)
    picks, width, group = given.experts.shape[-1], given.x.shape[-1], GROUP[format]
    tokens, rows = given.x.numel() // width, rows_of(given.up, width, format)
    inner = rows if given.packing == "separate" else rows // 2
    if not out.numel() or not picks:
        return out.zero_()
    is_halves, has_limit = given.packing == "halves", math.isfinite(given.limit)
    gate_stack = given.up if given.gate is None else given.gate
    gate_bias, up_bias = given.gate_bias, given.up_bias
    if is_halves and up_bias is not None:
        gate_bias, up_bias = up_bias, up_bias[:, inner:]
    hidden = out.new_empty((tokens * picks, inner), dtype=torch.float32)
    order = given.experts.new_empty(tokens * picks, dtype=torch.int32)
    key = {"group": group, "picks": 1, "dtype": str(out.dtype).removeprefix("torch.")}
    size, scales = row_of(width, format)
    config = dict(INNER_UNITS.config(key | {"out": inner, "size": size}))
    if given.packing == "interleaved":
        config["BLOCK_OUT"] = max(1, config["BLOCK_OUT"] // 2)
    launchable(_inner_units)[(tokens * picks, ceil_div(inner, config["BLOCK_OUT"]))](
        given.x, given.weights, given.experts, _numbers(gate_stack, format), scales_of(gate_stack, format),
        _numbers(given.up, format), scales_of(given.up, format), gate_bias, up_bias, hidden, order, width, inner, rows,
        inner if is_halves else 0, size, scales, 0 if up_bias is None else up_bias.stride(0),
        given.limit if has_limit else 0.0, given.up_offset, K=picks, KIND=given.activation,
        IS_GATED=given.gate is not None or given.packing != "separate", IS_INTERLEAVED=given.packing == "interleaved",
        HAS_BIAS=up_bias is not None, HAS_LIMIT=has_limit, WEIGHS_INPUT=given.weighs == "input", G=group,
        BLOCK_K=power_of_2(picks), **config,
    )  # fmt: skip
    size, scales = row_of(inner, format)
    key |= {"out": width, "size": size, "picks": picks}
    of_hidden = (hidden, given.weights, given.experts, order, _numbers(given.down, format))
    of_hidden = (*of_hidden, scales_of(given.down, format), given.down_bias, out, width, inner)
    flags = {"K": picks, "HAS_BIAS": given.down_bias is not None, "WEIGHS_OUTPUT": given.weighs == "output"}
    if group == 0:
        config = triton_experts_ternary.OUTPUTS.config(key)
        launchable(outputs_of_2)[(tokens, ceil_div(width, config["BLOCK_OUT"]))](
            *of_hidden, size // 4, **flags, WORDS=power_of_2(size // 4), **config
        )
    else:
        config = OUTPUTS.config(key)
        launchable(_outputs)[(tokens, ceil_div(width, config["BLOCK_OUT"]))](
            *of_hidden, size, scales, **flags, G=group, **config
        )
    return out


def _numbers(stack: Tensor, format: str) -> Tensor:
    """The same memory, counted as kernels load it."""
    return stack.view(torch.int32) if format == "ternary" else stack


def _fake(given: Operands, format: str) -> Tensor:
    del format
    return empty(given)


packed_experts_of_few = gpu_op("packed_experts_of_few", _launch, fake=_fake, reference=packed_by_reference)
