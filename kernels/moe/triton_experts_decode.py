"""Experts for few tokens in Triton: no sorting, each (token, expert) pair a matrix-vector product of its own.

Floor: the bytes of the experts that were picked. Two launches, three where the outputs are too few programs: the
inner units with their activation; then the outputs, their sum over picks inside a program, in order of experts, so that
it is the same each time and for any batch. Products are summed lane by lane and over lanes once at the end, so that the
loops hold nothing but loads and multiply-adds; the bytes in flight come from many small programs.
"""

# pyright: basic
from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.activations import activate
from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..gpu.tuning import Config, Key, Tunable
from .operands import Operands, by_reference, empty


@triton.jit
def _inner_units(
    p_x, p_weights, p_experts, p_gate, p_up, p_gate_bias, p_up_bias, p_hidden, p_order,
    M, F, s_expert, s_out, s_in, s_bias, limit, up_offset,
    K: tl.constexpr, KIND: tl.constexpr, IS_GATED: tl.constexpr, IS_INTERLEAVED: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_LIMIT: tl.constexpr, WEIGHS_INPUT: tl.constexpr,
    BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
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
    LANES: tl.constexpr = 2 * BLOCK_OUT if IS_INTERLEAVED else BLOCK_OUT
    rows = 2 * F if IS_INTERLEAVED else F
    o_row, o_in = i_tile * LANES + tl.arange(0, LANES), tl.arange(0, BLOCK_IN)
    m_row = o_row < rows
    o_weight = expert * s_expert + o_row[:, None] * s_out + o_in[None, :] * s_in
    b_gates, b_ups = tl.zeros((LANES, BLOCK_IN), tl.float32), tl.zeros((LANES, BLOCK_IN), tl.float32)
    for start in tl.range(0, M, BLOCK_IN, num_stages=STAGES):
        m_in = start + o_in < M
        m_weight = m_row[:, None] & m_in[None, :]
        b_x = tl.load(p_x + i_token * M + start + o_in, mask=m_in, other=0.0).to(tl.float32)
        b_ups += tl.load(p_up + o_weight + start * s_in, mask=m_weight, other=0.0).to(tl.float32) * b_x[None, :]
        if IS_GATED and not IS_INTERLEAVED:
            b_gate = tl.load(p_gate + o_weight + start * s_in, mask=m_weight, other=0.0)
            b_gates += b_gate.to(tl.float32) * b_x[None, :]
    b_up, b_gate = tl.sum(b_ups, 1), tl.sum(b_gates, 1)
    if WEIGHS_INPUT:
        share = tl.load(p_weights + i_pair).to(tl.float32)
        b_up, b_gate = b_up * share, b_gate * share
    if HAS_BIAS:
        b_up += tl.load(p_up_bias + expert * s_bias + o_row, mask=m_row, other=0.0).to(tl.float32)
        if IS_GATED and not IS_INTERLEAVED:
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
    p_hidden, p_weights, p_experts, p_order, p_down, p_bias, p_out,
    M, F, s_expert, s_out, s_in, steps,
    K: tl.constexpr, HAS_BIAS: tl.constexpr, WEIGHS_OUTPUT: tl.constexpr,
    BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """BLOCK_OUT outputs of one token: of all its picks and blocks of inner units, part `i_part` of them in a row."""
    i_token, i_tile, i_part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    o_out, o_in = i_tile * BLOCK_OUT + tl.arange(0, BLOCK_OUT), tl.arange(0, BLOCK_IN)
    m_out = o_out < M
    o_weight = o_out[:, None] * s_out + o_in[None, :] * s_in
    blocks = tl.cdiv(F, BLOCK_IN)
    first = i_part * steps
    last = tl.minimum(first + steps, K * blocks)
    b_sums, b_bias = tl.zeros((BLOCK_OUT, BLOCK_IN), tl.float32), tl.zeros((BLOCK_OUT,), tl.float32)
    for step in tl.range(first, last, num_stages=STAGES):
        start = (step % blocks) * BLOCK_IN
        i_pair = i_token * K + tl.load(p_order + i_token * K + step // blocks)
        expert = tl.load(p_experts + i_pair)
        m_in = start + o_in < F
        b_hidden = tl.load(p_hidden + i_pair * F + start + o_in, mask=m_in, other=0.0)
        share = 1.0
        if WEIGHS_OUTPUT:
            share = tl.load(p_weights + i_pair).to(tl.float32)
        p_tile = p_down + expert * s_expert + start * s_in
        b_down = tl.load(p_tile + o_weight, mask=m_out[:, None] & m_in[None, :], other=0.0)
        b_sums += b_down.to(tl.float32) * (b_hidden * share)[None, :]
        if HAS_BIAS:
            m_bias = m_out & (start == 0)
            b_bias += tl.load(p_bias + expert * M + o_out, mask=m_bias, other=0.0).to(tl.float32) * share
    b_out = tl.sum(b_sums, 1) + b_bias
    o_store = (i_token * tl.num_programs(2) + i_part) * M + o_out
    tl.store(p_out + o_store, b_out.to(p_out.dtype.element_ty), mask=m_out)


@triton.jit
def _sum_parts(p_parts, p_out, M, parts, BLOCK: tl.constexpr):
    i_token, o_m = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_m = o_m < M
    b_out = tl.zeros((BLOCK,), tl.float32)
    for i_part in range(parts):
        b_out += tl.load(p_parts + (i_token * parts + i_part) * M + o_m, mask=m_m, other=0.0)
    tl.store(p_out + i_token * M + o_m, b_out.to(p_out.dtype.element_ty), mask=m_m)


def _rule(key: Key) -> Config:
    """16 bytes a lane along the axis that lies together in memory, and enough programs for one token alone.

    Where outputs lie together, a program takes a cache line of them, so there are few and they are parted along the
    picks and inner units, until two wait on each of 132 multiprocessors.
    """
    out, inner, picks = (int(key[name]) for name in ("out", "in", "picks"))
    if key["layout"] == "out_in":
        block_out, block_in = 4, min(512, power_of_2(inner))
        return {"BLOCK_OUT": block_out, "BLOCK_IN": block_in, "PARTS": 1, "STAGES": 1, "num_warps": 4, "num_stages": 1}
    block_in = min(128, power_of_2(inner))
    block_out = min(64, power_of_2(out))
    parts = max(1, min(picks * ceil_div(inner, block_in), ceil_div(264, ceil_div(out, block_out))))
    return {"BLOCK_OUT": block_out, "BLOCK_IN": block_in, "PARTS": parts, "STAGES": 1, "num_warps": 4, "num_stages": 1}


def _space(key: Key) -> tuple[Config, ...]:
    guess = _rule(key)
    outs, ins = ((2, 4, 8, 16), (256, 512, 1024)) if key["layout"] == "out_in" else ((32, 64, 128), (32, 64, 128))
    parts = (1,) if key["layout"] == "out_in" else (1, 2, 4, int(guess["PARTS"]))
    return tuple(
        {**guess, "BLOCK_OUT": out, "BLOCK_IN": inner, "PARTS": part, "STAGES": stages, "num_warps": warps}
        for out in outs
        for inner in ins
        for part in parts
        for stages in (1, 3)
        for warps in (4, 8)
    )


INNER_UNITS = Tunable(name="experts_decode_inner", rule=_rule, space=_space)
OUTPUTS = Tunable(name="experts_decode_outputs", rule=_rule, space=_space)
TUNABLES = (INNER_UNITS, OUTPUTS)


def _launch(given: Operands) -> Tensor:
    given = given.dense()
    into, out_of, out = given.inward(), given.outward(), empty(given)
    picks, width, inner = given.experts.shape[-1], given.x.shape[-1], into.inner
    tokens = given.x.numel() // width
    if not out.numel() or not picks:
        return out.zero_()
    has_limit = math.isfinite(given.limit)
    key = {"layout": given.layout, "dtype": str(given.x.dtype).removeprefix("torch.")}
    hidden = given.x.new_empty((tokens * picks, inner), dtype=torch.float32)
    order = given.experts.new_empty(tokens * picks, dtype=torch.int32)
    config = dict(INNER_UNITS.config({"out": inner, "in": width, "picks": 1, **key}))
    del config["PARTS"]
    if into.is_interleaved:
        config["BLOCK_OUT"] = max(1, config["BLOCK_OUT"] // 2)
    launchable(_inner_units)[(tokens * picks, ceil_div(inner, config["BLOCK_OUT"]))](
        given.x, given.weights, given.experts, into.up if into.gate is None else into.gate, into.up, into.gate_bias,
        into.up_bias, hidden, order, width, inner, *into.up.stride(),
        0 if into.up_bias is None else into.up_bias.stride(0), given.limit if has_limit else 0.0, given.up_offset,
        K=picks, KIND=given.activation, IS_GATED=into.is_gated, IS_INTERLEAVED=into.is_interleaved,
        HAS_BIAS=into.up_bias is not None, HAS_LIMIT=has_limit, WEIGHS_INPUT=given.weighs == "input",
        BLOCK_K=power_of_2(picks), **config,
    )  # fmt: skip
    config = dict(OUTPUTS.config({"out": width, "in": inner, "picks": picks, **key}))
    steps = ceil_div(picks * ceil_div(inner, config["BLOCK_IN"]), config.pop("PARTS"))
    parts = ceil_div(picks * ceil_div(inner, config["BLOCK_IN"]), steps)
    found = out if parts == 1 else out.new_empty((tokens, parts, width), dtype=torch.float32)
    launchable(_outputs)[(tokens, ceil_div(width, config["BLOCK_OUT"]), parts)](
        hidden, given.weights, given.experts, order, out_of, given.down_bias, found, width, inner, *out_of.stride(),
        steps, K=picks, HAS_BIAS=given.down_bias is not None, WEIGHS_OUTPUT=given.weighs == "output", **config,
    )  # fmt: skip
    if parts > 1:
        launchable(_sum_parts)[(tokens, ceil_div(width, 1024))](found, out, width, parts, BLOCK=1024)
    return out


experts_of_few = gpu_op("experts_of_few", _launch, fake=empty, reference=by_reference)
