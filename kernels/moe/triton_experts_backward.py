"""The gradients of experts in Triton: grouped products over the tiles of the forward pass, without atomics.

With dY the gradient of the outputs, each by expert: `dY * down`, from which the activation's slope makes the gradient
of what went into it, and its product with the inner units that of a pick's weight; that times gate and up, summed over
a token's picks, for the inputs; and two sums of outer products over an expert's picks, for its matrices. Rows of x and
dY are gathered where they are read. Bound by matrix work: 12 * N * K * M * F FLOPs, twice those of the forward pass.
"""

# pyright: basic
from __future__ import annotations

import math
from typing import TypeAlias

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.op import launchable
from ..gpu.sizes import ceil_div
from ..gpu.tuning import Config, Key, Tunable
from .operands import Inward, Operands, rows_first
from .triton_dispatch import Dispatch, dispatch
from .triton_experts_grouped import programs, sum_picks, table, tile_rows
from .triton_experts_slopes import INNER, inner_gradients


@triton.jit
def _add_product(b_out, p_row, p_weight, s_row, s_weight, size, m_m, m_n, BLOCK_K: tl.constexpr):
    """To a tile of sums, `size` rows of a matrix times as many columns of an operand."""
    o_k = tl.arange(0, BLOCK_K)
    for start in range(0, size, BLOCK_K):
        m_k = start + o_k < size
        b_row = tl.load(p_row + start * s_row, mask=m_m[:, None] & m_k[None, :], other=0.0)
        b_weight = tl.load(p_weight + start * s_weight, mask=m_k[:, None] & m_n[None, :], other=0.0)
        b_out = tl.dot(b_row, b_weight, b_out, input_precision="ieee")
    return b_out


@triton.jit
def _input_gradients(
    p_inner, p_x, p_slots, p_starts, p_tiles, p_count, p_gate, p_up, p_parts, p_shares,
    M, F, slots, s_expert, s_out, s_in,
    K: tl.constexpr, IS_GATED: tl.constexpr, IS_INTERLEAVED: tl.constexpr, WEIGHS_INPUT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Of tiles, by position: gradients of inner units times gate and up; and what the weight of an input gets."""
    TWO: tl.constexpr = IS_GATED and not IS_INTERLEAVED  # pyright: ignore[reportAssignmentType]
    lanes = 2 * F if IS_GATED else F
    tiles_n = tl.cdiv(M, BLOCK_N)
    for i_tile in range(tl.program_id(0), tl.load(p_count) * tiles_n, tl.num_programs(0)):
        expert, first = tl.load(p_tiles + i_tile // tiles_n * 2), tl.load(p_tiles + i_tile // tiles_n * 2 + 1)
        i_n = i_tile % tiles_n
        o_m = first + tl.arange(0, BLOCK_M)
        m_m = o_m < tl.load(p_starts + expert + 1)
        o_n, o_k = i_n * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
        m_n = o_n < M
        p_row = p_inner + first.to(tl.int64) * lanes + (o_m - first)[:, None] * lanes + o_k[None, :]
        o_weight = expert.to(tl.int64) * s_expert + o_k[:, None] * s_out + o_n[None, :] * s_in
        b_out = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        if TWO:
            b_out = _add_product(b_out, p_row, p_gate + o_weight, 1, s_out, F, m_m, m_n, BLOCK_K)
            b_out = _add_product(b_out, p_row + F, p_up + o_weight, 1, s_out, F, m_m, m_n, BLOCK_K)
        else:
            b_out = _add_product(b_out, p_row, p_up + o_weight, 1, s_out, lanes, m_m, m_n, BLOCK_K)
        m_out = m_m[:, None] & m_n[None, :]
        if WEIGHS_INPUT:
            b_token = tl.load(p_slots + o_m, mask=m_m, other=0) // K
            b_x = tl.load(p_x + b_token.to(tl.int64)[:, None] * M + o_n[None, :], mask=m_out, other=0.0)
            tl.store(p_shares + i_n.to(tl.int64) * slots + o_m, tl.sum(b_out * b_x.to(tl.float32), 1), mask=m_m)
        p_store = p_parts + first.to(tl.int64) * M + (o_m - first)[:, None] * M + o_n[None, :]
        tl.store(p_store, b_out.to(p_parts.dtype.element_ty), mask=m_out)


@triton.jit
def _outer_products(
    p_left, p_right, p_weights, p_slots, p_starts, p_out, R, C, s_left, s_expert, s_r, s_c,
    K: tl.constexpr, WEIGHS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """A tile of one expert's gradient: rows by position times gathered rows, summed over its picks in their order."""
    i_tile, expert = tl.program_id(0), tl.program_id(1)
    tiles_c = tl.cdiv(C, BLOCK_C)
    o_r = i_tile // tiles_c * BLOCK_R + tl.arange(0, BLOCK_R)
    o_c, o_s = i_tile % tiles_c * BLOCK_C + tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_S)
    m_r, m_c = o_r < R, o_c < C
    first, last = tl.load(p_starts + expert), tl.load(p_starts + expert + 1)
    b_out = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(first, last, BLOCK_S):
        m_s = start + o_s < last
        b_slot = tl.load(p_slots + start + o_s, mask=m_s, other=0)
        o_left = (start + o_s).to(tl.int64)[None, :] * s_left + o_r[:, None]
        b_left = tl.load(p_left + o_left, mask=m_r[:, None] & m_s[None, :], other=0.0)
        o_right = (b_slot // K).to(tl.int64)[:, None] * C + o_c[None, :]
        b_right = tl.load(p_right + o_right, mask=m_s[:, None] & m_c[None, :], other=0.0)
        if WEIGHS:
            b_share = tl.load(p_weights + b_slot, mask=m_s, other=0.0).to(tl.float32)
            b_right = (b_right.to(tl.float32) * b_share[:, None]).to(b_left.dtype)
        b_out = tl.dot(b_left, b_right, b_out, input_precision="ieee")
    p_store = p_out + expert.to(tl.int64) * s_expert + o_r.to(tl.int64)[:, None] * s_r + o_c.to(tl.int64)[None, :] * s_c
    tl.store(p_store, b_out.to(p_out.dtype.element_ty), mask=m_r[:, None] & m_c[None, :])


@triton.jit
def _bias_gradients(
    p_rows, p_weights, p_slots, p_starts, p_out, s_row, width,
    K: tl.constexpr, GATHERS: tl.constexpr, WEIGHS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Rows of one expert's picks, summed: by position, or gathered by token and weighed."""
    expert, o_n, o_s = tl.program_id(1), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, BLOCK_S)
    first, last = tl.load(p_starts + expert), tl.load(p_starts + expert + 1)
    b_out = tl.zeros((BLOCK_S, BLOCK), tl.float32)
    for start in range(first, last, BLOCK_S):
        m_s = start + o_s < last
        b_slot = tl.load(p_slots + start + o_s, mask=m_s, other=0)
        b_row = b_slot // K if GATHERS else start + o_s
        m_row = m_s[:, None] & (o_n < width)[None, :]
        b_rows = tl.load(p_rows + b_row.to(tl.int64)[:, None] * s_row + o_n[None, :], mask=m_row, other=0.0)
        b_rows = b_rows.to(tl.float32)
        if WEIGHS:
            b_rows *= tl.load(p_weights + b_slot, mask=m_s, other=0.0).to(tl.float32)[:, None]
        b_out += b_rows
    tl.store(p_out + expert * width + o_n, tl.sum(b_out, 0).to(p_out.dtype.element_ty), mask=o_n < width)


def _rule_of_input(key: Key) -> Config:
    if key["dtype"] == "float32":
        return {"BLOCK_N": 32, "BLOCK_K": 32, "num_warps": 4, "num_stages": 2}
    is_tall = int(key["rows"]) >= 128
    return {
        "BLOCK_N": 256 if is_tall else 128,
        "BLOCK_K": 64,
        "num_warps": 8 if is_tall else 4,
        "num_stages": 3 if is_tall else 4,
    }


def _space_of_input(key: Key) -> tuple[Config, ...]:
    return tuple(
        {"BLOCK_N": n, "BLOCK_K": k, "num_warps": warps, "num_stages": stages}
        for n in (128, 256)
        for k in (32, 64, 128)
        for warps in (4, 8)
        for stages in (3, 4)
        if k * (128 + n) * 2 * stages <= 220 * 1024
    )


def _rule_of_sums(key: Key) -> Config:
    """128 by 256 sums where experts have picks enough; else they are written more than summed."""
    if key["dtype"] == "float32":
        return {"BLOCK_R": 32, "BLOCK_C": 64, "BLOCK_S": 32, "num_warps": 4, "num_stages": 2}
    is_tall = int(key["rows"]) >= 128
    return {
        "BLOCK_R": 128,
        "BLOCK_C": 256 if is_tall else 128,
        "BLOCK_S": 64 if is_tall else 32,
        "num_warps": 8 if is_tall else 4,
        "num_stages": 3,
    }


def _space_of_sums(key: Key) -> tuple[Config, ...]:
    return tuple(
        {"BLOCK_R": r, "BLOCK_C": c, "BLOCK_S": s, "num_warps": warps, "num_stages": stages}
        for r, c, warps in ((64, 128, 4), (128, 128, 4), (128, 128, 8), (128, 256, 8), (256, 128, 8))
        for s in (32, 64)
        for stages in (3, 4)
    )


INPUT = Tunable(name="experts_backward_input", rule=_rule_of_input, space=_space_of_input)
SUMS = Tunable(name="experts_backward_sums", rule=_rule_of_sums, space=_space_of_sums)
TUNABLES = (INNER, INPUT, SUMS)


TRAINED = ("x", "weights", "gate", "up", "down", "gate_bias", "up_bias", "down_bias")
"""The operands that have gradients."""
Gradients: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""In this order; what is absent or not wanted has no elements."""


def launch(grad: Tensor, given: Operands, kept: Tensor, wants_x: bool, wants_matrices: bool) -> Gradients:
    """kept: what the forward pass kept, `[N * K, 2F]` or `[N * K, F]`."""
    found = empty(grad, given, kept, wants_x, wants_matrices)
    if not given.x.numel() or not given.experts.numel():
        for one in found:
            one.zero_()
        return found
    grad, given = grad.contiguous(), given.dense()
    into, out_of = given.inward(), given.outward()
    slots, picks, num_experts = given.experts.numel(), given.experts.shape[-1], given.down.shape[0]
    by_expert = dispatch(given.experts, num_experts, tile_rows(slots, num_experts))
    hidden, inner, shares = _inner(grad, given, by_expert, out_of, into, kept)
    weighs_input = given.weighs == "input"
    if weighs_input or wants_x:
        parts, of_inputs = _input(inner, given, by_expert, into)
        shares = of_inputs if weighs_input else shares
        if wants_x:
            sum_picks(parts, given.weights, by_expert, found[0], picks, weighs=weighs_input)
    by_slot = shares.sum(0).index_select(0, by_expert.positions).view(given.experts.shape)
    if not weighs_input and given.down_bias is not None:
        by_slot = by_slot + (grad.float() @ given.down_bias.float().T).gather(-1, given.experts)
    if wants_matrices:
        _matrices(found, grad, given, by_expert, hidden, inner)
    return found[0], by_slot.to(given.weights.dtype), *found[2:]


def empty(grad: Tensor, given: Operands, kept: Tensor, wants_x: bool, wants_matrices: bool) -> Gradients:
    """What `launch` fills."""

    def like(name: str) -> Tensor:
        one, is_wanted = getattr(given, name), wants_x if name == "x" else wants_matrices or name == "weights"
        return given.x.new_empty(0) if one is None or not is_wanted else one.new_empty(one.shape)

    return tuple(map(like, TRAINED))  # pyright: ignore[reportReturnType]


def _key(by_expert: Dispatch, given: Operands, **sizes: int) -> dict[str, int | str]:
    dtype = str(given.x.dtype).removeprefix("torch.")
    return {"rows": by_expert.block, "layout": given.layout, "dtype": dtype, **sizes}


def _inner(
    grad: Tensor, given: Operands, by_expert: Dispatch, out_of: Tensor, into: Inward, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Inner units weighed, `[N * K, F]`; the gradients of what made them, as kept; parts of those of weights."""
    num_experts, width, size = out_of.shape
    slots, has_limit = len(by_expert.slots), math.isfinite(given.limit)
    config = INNER.config(_key(by_expert, given, **{"out": size, "in": width}))
    tiles_n = ceil_div(size, config["BLOCK_N"])
    hidden, inner = kept.new_empty((slots, size)), torch.empty_like(kept)
    shares = given.weights.new_empty((tiles_n, slots), dtype=torch.float32)
    launchable(inner_gradients)[(programs(slots, num_experts, by_expert.block, tiles_n),)](
        grad, given.weights, by_expert.slots, *table(by_expert), out_of, kept, hidden, inner, shares, width, size,
        slots, *out_of.stride(), given.limit if has_limit else 0.0, given.up_offset, K=given.experts.shape[-1],
        KIND=given.activation, IS_GATED=into.is_gated, IS_INTERLEAVED=into.is_interleaved, HAS_LIMIT=has_limit,
        WEIGHS_INPUT=given.weighs == "input", BLOCK_M=by_expert.block, **config,
    )  # fmt: skip
    return hidden, inner, shares


def _input(inner: Tensor, given: Operands, by_expert: Dispatch, into: Inward) -> tuple[Tensor, Tensor]:
    """Gradients of each pick's input, `[N * K, M]`, without its weight; parts of those of weights."""
    x, weighs_input = given.x, given.weighs == "input"
    slots, width, num_experts = len(by_expert.slots), x.shape[-1], into.up.shape[0]
    config = INPUT.config(_key(by_expert, given, **{"out": width, "in": into.inner}))
    tiles_n = ceil_div(width, config["BLOCK_N"])
    parts = x.new_empty((slots, width))
    shares = x.new_empty((tiles_n if weighs_input else 0, slots), dtype=torch.float32)
    launchable(_input_gradients)[(programs(slots, num_experts, by_expert.block, tiles_n),)](
        inner, x, by_expert.slots, *table(by_expert), into.up if into.gate is None else into.gate, into.up, parts,
        shares, width, into.inner, slots, *into.up.stride(), K=given.experts.shape[-1], IS_GATED=into.is_gated,
        IS_INTERLEAVED=into.is_interleaved, WEIGHS_INPUT=weighs_input, BLOCK_M=by_expert.block, **config,
    )  # fmt: skip
    return parts, shares


def _matrices(
    found: Gradients, grad: Tensor, given: Operands, by_expert: Dispatch, hidden: Tensor, inner: Tensor
) -> None:
    """Into found, those of gate, up and down, and of the biases that there are."""
    of_gate, of_up, of_down, of_gate_bias, of_up_bias, of_down_bias = found[2:]
    size, picks, layout = hidden.shape[1], given.experts.shape[-1], given.layout

    def products(left: Tensor, right: Tensor, out: Tensor, *, weighed: bool) -> None:
        """out `[E, R, C]`: left `[N * K, R]` by position, right `[…, C]` by token."""
        num_experts, high, wide = out.shape
        config = SUMS.config(_key(by_expert, given, out=high, into=wide))
        tiles = ceil_div(high, config["BLOCK_R"]) * ceil_div(wide, config["BLOCK_C"])
        launchable(_outer_products)[(tiles, num_experts)](
            left, right, given.weights, by_expert.slots, by_expert.starts, out, high, wide, left.stride(0),
            *out.stride(), K=picks, WEIGHS=weighed, **config,
        )  # fmt: skip

    def sums(rows: Tensor, out: Tensor, *, gathers: bool, weighed: bool) -> None:
        if out.numel():
            width = out.shape[1]
            launchable(_bias_gradients)[(ceil_div(width, 128), len(out))](
                rows, given.weights, by_expert.slots, by_expert.starts, out, rows.stride(-2), width, K=picks,
                GATHERS=gathers, WEIGHS=weighed, BLOCK=128, BLOCK_S=32,
            )  # fmt: skip

    products(hidden, grad, rows_first(of_down, layout).transpose(1, 2), weighed=False)
    sums(grad, of_down_bias, gathers=True, weighed=given.weighs == "output")
    is_split = given.packing == "separate" and of_gate.numel() > 0
    for left, out, bias in (
        *(((inner[:, :size], of_gate, of_gate_bias),) if is_split else ()),
        (inner[:, size:] if is_split else inner, of_up, of_up_bias),
    ):
        products(left, given.x, rows_first(out, layout), weighed=given.weighs == "input")
        sums(left, bias, gathers=False, weighed=False)
