"""Experts for many tokens in Triton: two grouped matrix products over tiles of one expert's tokens, then a sum.

The first gathers the rows of its tokens and ends in the gated activation; the second writes each pick's output; a
third launch sums a token's picks in order of experts, in float32. Programs stay and take tile after tile from a table
on the GPU, so that nothing is read on the host. Bound by matrix work: 6 * N * K * M * F FLOPs at 128 experts and 32k
tokens, beside `2 * N * K * (M + F)` numbers between the launches.
"""

# pyright: basic
from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from ..gpu.activations import activate
from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..gpu.tuning import Config, Key, Tunable
from .operands import Operands, by_reference, empty
from .triton_dispatch import Dispatch, dispatch, most_tiles

MULTIPROCESSORS = 132
"""Programs that stay on an H100 or H200; more or fewer multiprocessors only change how many tiles each takes."""


@triton.jit
def halves(b_tile, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """`[BLOCK_M, BLOCK_N]` -> its left and its right half, so that what follows takes fewer registers."""
    return tl.split(tl.permute(tl.reshape(b_tile, (BLOCK_M, 2, BLOCK_N // 2)), (0, 2, 1)))


@triton.jit
def _keep(p_row, b_tile, first_n, m_m, stride, lanes, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Writes a tile from column `first_n` on, its first row at `p_row`."""
    o_n = first_n + tl.arange(0, BLOCK_N // 2)
    p_left = p_row + tl.arange(0, BLOCK_M)[:, None] * stride + o_n[None, :]
    b_left, b_right = halves(b_tile.to(p_row.dtype.element_ty), BLOCK_M, BLOCK_N)  # pyright: ignore[reportGeneralTypeIssues]
    tl.store(p_left, b_left, mask=m_m[:, None] & (o_n < lanes)[None, :])
    tl.store(p_left + BLOCK_N // 2, b_right, mask=m_m[:, None] & (o_n + BLOCK_N // 2 < lanes)[None, :])


@triton.jit
def _first(
    p_x, p_weights, p_slots, p_starts, p_tiles, p_count, p_gate, p_up, p_gate_bias, p_up_bias, p_hidden, p_kept,
    M, F, s_expert, s_out, s_in, s_bias, limit, up_offset,
    K: tl.constexpr, KIND: tl.constexpr, IS_GATED: tl.constexpr, IS_INTERLEAVED: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_LIMIT: tl.constexpr, WEIGHS_INPUT: tl.constexpr, KEEPS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Inner units of tiles: gathered rows times gate and up, or times both in one where they are interleaved."""
    TWO: tl.constexpr = IS_GATED and not IS_INTERLEAVED  # pyright: ignore[reportAssignmentType]
    LANES: tl.constexpr = 2 * BLOCK_N if IS_INTERLEAVED else BLOCK_N
    lanes = 2 * F if IS_INTERLEAVED else F
    tiles_n = tl.cdiv(F, BLOCK_N)
    for i_tile in range(tl.program_id(0), tl.load(p_count) * tiles_n, tl.num_programs(0)):
        expert, first = tl.load(p_tiles + i_tile // tiles_n * 2), tl.load(p_tiles + i_tile // tiles_n * 2 + 1)
        o_m = first + tl.arange(0, BLOCK_M)
        m_m = o_m < tl.load(p_starts + expert + 1)
        b_slot = tl.load(p_slots + o_m, mask=m_m, other=0)
        o_n, o_k = (i_tile % tiles_n) * LANES + tl.arange(0, LANES), tl.arange(0, BLOCK_K)
        m_n = o_n < lanes
        p_row = p_x + (b_slot // K).to(tl.int64)[:, None] * M + o_k[None, :]
        o_weight = expert.to(tl.int64) * s_expert + o_k[:, None] * s_in + o_n[None, :] * s_out
        b_up = tl.zeros((BLOCK_M, LANES), tl.float32)
        b_gate = tl.zeros((BLOCK_M, LANES), tl.float32)
        for start in range(0, M, BLOCK_K):
            m_k = start + o_k < M
            m_weight = m_k[:, None] & m_n[None, :]
            b_x = tl.load(p_row + start, mask=m_m[:, None] & m_k[None, :], other=0.0)
            b_weight = tl.load(p_up + o_weight + start * s_in, mask=m_weight, other=0.0)
            b_up = tl.dot(b_x, b_weight, b_up, input_precision="ieee")
            if TWO:
                b_weight = tl.load(p_gate + o_weight + start * s_in, mask=m_weight, other=0.0)
                b_gate = tl.dot(b_x, b_weight, b_gate, input_precision="ieee")
        if WEIGHS_INPUT:
            b_share = tl.load(p_weights + b_slot, mask=m_m, other=0.0).to(tl.float32)
            b_up, b_gate = b_up * b_share[:, None], b_gate * b_share[:, None]
        if HAS_BIAS:
            b_up += tl.load(p_up_bias + expert * s_bias + o_n, mask=m_n, other=0.0).to(tl.float32)[None, :]
            if TWO:
                b_gate += tl.load(p_gate_bias + expert * s_bias + o_n, mask=m_n, other=0.0).to(tl.float32)[None, :]
        if KEEPS:
            wide = 2 * F if IS_GATED else F
            p_keep = p_kept + first.to(tl.int64) * wide
            i_n = (i_tile % tiles_n) * LANES
            _keep(p_keep + (F if TWO else 0), b_up, i_n, m_m, wide, lanes, BLOCK_M, LANES)
            if TWO:
                _keep(p_keep, b_gate, i_n, m_m, wide, lanes, BLOCK_M, LANES)
        if IS_INTERLEAVED:
            b_gate, b_up = tl.split(tl.reshape(b_up, (BLOCK_M, BLOCK_N, 2)))
        if HAS_LIMIT:
            b_up = tl.minimum(tl.maximum(b_up, -limit), limit)
            b_gate = tl.minimum(b_gate, limit)
        b_hidden = activate(b_gate, KIND) * (b_up + up_offset) if IS_GATED else activate(b_up, KIND)
        o_unit = (i_tile % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
        p_store = p_hidden + o_m.to(tl.int64)[:, None] * F + o_unit[None, :]
        tl.store(p_store, b_hidden.to(p_hidden.dtype.element_ty), mask=m_m[:, None] & (o_unit < F)[None, :])


@triton.jit
def _second(
    p_hidden, p_starts, p_tiles, p_count, p_down, p_bias, p_parts, M, F, s_expert, s_out, s_in,
    HAS_BIAS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Outputs of tiles, by position."""
    tiles_n = tl.cdiv(M, BLOCK_N)
    for i_tile in range(tl.program_id(0), tl.load(p_count) * tiles_n, tl.num_programs(0)):
        expert, first = tl.load(p_tiles + i_tile // tiles_n * 2), tl.load(p_tiles + i_tile // tiles_n * 2 + 1)
        o_m = first + tl.arange(0, BLOCK_M)
        m_m = o_m < tl.load(p_starts + expert + 1)
        o_n, o_k = (i_tile % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
        m_n = o_n < M
        p_row = p_hidden + o_m.to(tl.int64)[:, None] * F + o_k[None, :]
        p_weight = p_down + expert.to(tl.int64) * s_expert + o_k[:, None] * s_in + o_n[None, :] * s_out
        b_out = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for start in range(0, F, BLOCK_K):
            m_k = start + o_k < F
            b_hidden = tl.load(p_row + start, mask=m_m[:, None] & m_k[None, :], other=0.0)
            b_weight = tl.load(p_weight + start * s_in, mask=m_k[:, None] & m_n[None, :], other=0.0)
            b_out = tl.dot(b_hidden, b_weight, b_out, input_precision="ieee")
        if HAS_BIAS:
            b_out += tl.load(p_bias + expert * M + o_n, mask=m_n, other=0.0).to(tl.float32)[None, :]
        p_store = p_parts + o_m.to(tl.int64)[:, None] * M + o_n[None, :]
        tl.store(p_store, b_out.to(p_parts.dtype.element_ty), mask=m_m[:, None] & m_n[None, :])


@triton.jit
def _sum_picks(
    p_parts, p_weights, p_positions, p_out, M,
    K: tl.constexpr, WEIGHS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A token's outputs in order of positions, which is that of experts."""
    i_token, o_m = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    o_k, m_m = tl.arange(0, BLOCK_K), o_m < M
    b_position = tl.load(p_positions + i_token * K + o_k, mask=o_k < K, other=2147483647)
    b_rank = tl.sum((b_position[None, :] < b_position[:, None]).to(tl.int32), 1)
    b_share = tl.full((BLOCK_K,), 1.0, tl.float32)
    if WEIGHS:
        b_share = tl.load(p_weights + i_token * K + o_k, mask=o_k < K, other=0.0).to(tl.float32)
    b_out = tl.zeros((BLOCK,), tl.float32)
    for i in range(K):
        m_this = (b_rank == i) & (o_k < K)
        position = tl.sum(tl.where(m_this, b_position, 0), 0).to(tl.int64)
        share = tl.sum(tl.where(m_this, b_share, 0.0), 0)
        b_out += tl.load(p_parts + position * M + o_m, mask=m_m, other=0.0).to(tl.float32) * share
    tl.store(p_out + i_token * M + o_m, b_out.to(p_out.dtype.element_ty), mask=m_m)


def _rule(key: Key) -> Config:
    """Tiles as tall as an expert's share of the tokens, to 128; then 128 by 256 sums: 128 registers of 8 warps."""
    rows = min(128, max(16, power_of_2(int(key["rows"]))))
    lanes = 256 if rows >= 128 else 128
    if key["dtype"] == "float32":
        return {"BLOCK_N": 32, "BLOCK_K": 32, "num_warps": 4, "num_stages": 2}
    return {
        "BLOCK_N": lanes // 2 if key["is_gated"] else lanes,
        "BLOCK_K": 64,
        "num_warps": 8 if rows >= 128 else 4,
        "num_stages": 3 if rows >= 128 else 4,
    }


def _space(key: Key) -> tuple[Config, ...]:
    return tuple(
        {"BLOCK_N": n, "BLOCK_K": k, "num_warps": warps, "num_stages": stages}
        for n in ((64, 128) if key["is_gated"] else (128, 256))
        for k in (32, 64, 128)
        for warps in (4, 8)
        for stages in (3, 4, 5)
        if k * (128 + n * (2 if key["is_gated"] else 1)) * 2 * stages <= 220 * 1024
    )


FIRST = Tunable(name="experts_grouped_first", rule=_rule, space=_space)
SECOND = Tunable(name="experts_grouped_second", rule=_rule, space=_space)
TUNABLES = (FIRST, SECOND)


def tile_rows(slots: int, num_experts: int) -> int:
    """Positions of a tile: 16 to 128, the power of two at the mean share of an expert."""
    return min(128, max(16, power_of_2(ceil_div(slots, num_experts))))


def run(given: Operands, *, keeps: bool) -> tuple[Tensor, Tensor]:
    """The outputs, and with `keeps` what goes into the activation, `[N * K, 2F]` by position, gate and up as packed."""
    given = given.dense()
    into, out_of, out = given.inward(), given.outward(), empty(given)
    slots, picks, width, inner, num_experts = (
        given.experts.numel(), given.experts.shape[-1], given.x.shape[-1], into.inner, given.down.shape[0],
    )  # fmt: skip
    kept = out.new_empty((slots if keeps else 0, (1 + into.is_gated) * inner))
    if not out.numel() or not picks:
        return out.zero_(), kept
    rows, has_limit = tile_rows(slots, num_experts), math.isfinite(given.limit)
    by_expert = dispatch(given.experts, num_experts, rows)
    key = {"rows": rows, "layout": given.layout, "dtype": str(out.dtype).removeprefix("torch.")}
    hidden = out.new_empty((slots, inner))
    config = FIRST.config(key | {"out": inner, "in": width, "is_gated": int(into.is_gated)})
    launchable(_first)[(programs(slots, num_experts, rows, ceil_div(inner, config["BLOCK_N"])),)](
        given.x, given.weights, by_expert.slots, *table(by_expert), into.up if into.gate is None else into.gate,
        into.up, into.gate_bias, into.up_bias, hidden, kept, width, inner, *into.up.stride(),
        0 if into.up_bias is None else into.up_bias.stride(0), given.limit if has_limit else 0.0, given.up_offset,
        K=picks, KIND=given.activation, IS_GATED=into.is_gated, IS_INTERLEAVED=into.is_interleaved,
        HAS_BIAS=into.up_bias is not None, HAS_LIMIT=has_limit, WEIGHS_INPUT=given.weighs == "input",
        KEEPS=keeps, BLOCK_M=rows, **config,
    )  # fmt: skip
    parts = out.new_empty((slots, width))
    config = SECOND.config(key | {"out": width, "in": inner, "is_gated": 0})
    launchable(_second)[(programs(slots, num_experts, rows, ceil_div(width, config["BLOCK_N"])),)](
        hidden, *table(by_expert), out_of, given.down_bias, parts, width, inner, *out_of.stride(),
        HAS_BIAS=given.down_bias is not None, BLOCK_M=rows, **config,
    )  # fmt: skip
    sum_picks(parts, given.weights, by_expert, out, picks, weighs=given.weighs == "output")
    return out, kept


def sum_picks(parts: Tensor, weights: Tensor, by_expert: Dispatch, out: Tensor, picks: int, *, weighs: bool) -> None:
    """Into out `[..., M]`, of parts `[N * K, M]` by position those of each token, weighed or not."""
    width = out.shape[-1]
    launchable(_sum_picks)[(len(parts) // picks, ceil_div(width, 1024))](
        parts, weights, by_expert.positions, out, width, K=picks, WEIGHS=weighs, BLOCK=1024, BLOCK_K=power_of_2(picks)
    )


def table(by_expert: Dispatch) -> tuple[Tensor, Tensor, Tensor]:
    """What says which tile is whose, as the kernels take it."""
    return by_expert.starts, by_expert.tiles, by_expert.count


def programs(slots: int, num_experts: int, rows: int, tiles_n: int) -> int:
    """As many as stay, or as tiles at most."""
    return min(MULTIPROCESSORS * (1 if rows >= 128 else 2), most_tiles(slots, num_experts, rows) * tiles_n)


def _launch(given: Operands) -> Tensor:
    return run(given, keeps=False)[0]


experts_of_many = gpu_op("experts_of_many", _launch, fake=empty, reference=by_reference)
