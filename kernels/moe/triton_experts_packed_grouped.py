"""Experts of packed weights for many tokens in Triton: grouped products over tiles of one expert's tokens, whose left
operand is a tile of weights that becomes numbers in registers.

Floor: the packed bytes of the experts that are picked, or 6 * N * K * M * F FLOPs; at 128 experts of 2048 by 768, eight
a token, in int4 on an H100, 0.10 ms of bytes, which the FLOPs pass at 1300 tokens. Each weight is made a number once a
tile, for int4 by two instructions; with all that a step takes they are by count 70 % of the time that its products with
128 tokens take, partly beside them. So 65 % of bandwidth are expected at 128 tokens, and 450 TFLOP/s at 32k. int8 and
ternary rows have one scale, which multiplies the sums. Ternary ones meet tokens and inner units in whole numbers of 8
bits, each rounded as a row, as in a ternary layer.
"""

# pyright: basic
from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from ..gpu.activations import activate
from ..gpu.bytes import fields_of_2, fields_of_4, weights_of_4
from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div
from ..gpu.target import KIB, launch_target
from ..gpu.tuning import Config, Key, Tunable
from ..norm.triton_quantise import normed_rows
from .operands import Operands, empty
from .triton_dispatch import Dispatch, dispatch
from .triton_experts_grouped import programs, sum_picks, table, tile_rows
from .triton_stack import GROUP, packed_by_reference, row_of, rows_of, scales_of


@triton.jit
def _sums_of_8(
    p_row, m_m, p_gate, p_up, m_n, width,
    TWO: tl.constexpr, LANES: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Rows of int8 matrices times tokens, before their scales."""
    o_k = tl.arange(0, BLOCK_K)
    b_gate, b_up = tl.zeros((LANES, BLOCK_M), tl.float32), tl.zeros((LANES, BLOCK_M), tl.float32)
    for start in range(0, width, BLOCK_K):
        o_in = start + o_k
        m_weight = m_n[:, None] & (o_in < width)[None, :]
        b_x = tl.load(p_row[None, :] + o_in[:, None], mask=(o_in < width)[:, None] & m_m[None, :], other=0.0)
        b_weight = tl.load(p_up[:, None] + o_in[None, :], mask=m_weight, other=0).to(tl.int8, bitcast=True)
        b_up = tl.dot(b_weight.to(b_x.dtype), b_x, b_up, input_precision="ieee")
        if TWO:
            b_weight = tl.load(p_gate[:, None] + o_in[None, :], mask=m_weight, other=0).to(tl.int8, bitcast=True)
            b_gate = tl.dot(b_weight.to(b_x.dtype), b_x, b_gate, input_precision="ieee")
    return b_gate, b_up


@triton.jit
def _add_4(b_sum, p_rows, p_scale, m_n, groups, b_low, b_high):
    """To sums, one step of an int4 matrix times the tokens of both halves of its columns."""
    b_bytes = tl.load(p_rows, mask=m_n[:, None], other=0)
    b_scale0 = tl.load(p_scale, mask=m_n, other=0.0).to(b_low.dtype)[:, None]
    b_scale1 = tl.load(p_scale + groups, mask=m_n, other=0.0).to(b_low.dtype)[:, None]
    if b_low.dtype == tl.float32:
        b_0, b_1 = fields_of_4(b_bytes)  # pyright: ignore[reportGeneralTypeIssues]
        b_0, b_1 = (b_0.to(tl.float32) - 8.0) * b_scale0, (b_1.to(tl.float32) - 8.0) * b_scale1
    else:
        b_0, b_1 = weights_of_4(b_bytes, b_scale0, b_scale1)  # pyright: ignore[reportGeneralTypeIssues]
    b_sum = tl.dot(b_0, b_low, b_sum, input_precision="ieee")
    return tl.dot(b_1, b_high, b_sum, input_precision="ieee")


@triton.jit
def _sums_of_4(
    p_row, m_m, p_gate, p_gate_scale, p_up, p_up_scale, m_n, width, size,
    TWO: tl.constexpr, G: tl.constexpr, LANES: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Rows of int4 matrices times tokens, BLOCK_K bytes of a group a step."""
    o_k, groups = tl.arange(0, BLOCK_K), size // G
    b_gate, b_up = tl.zeros((LANES, BLOCK_M), tl.float32), tl.zeros((LANES, BLOCK_M), tl.float32)
    for start in range(0, size, BLOCK_K):
        o_in = start + o_k
        b_low = tl.load(p_row[None, :] + o_in[:, None], mask=(o_in < width)[:, None] & m_m[None, :], other=0.0)
        m_high = (o_in + size < width)[:, None] & m_m[None, :]
        b_high = tl.load(p_row[None, :] + (o_in + size)[:, None], mask=m_high, other=0.0)
        i_group = start // G
        b_up = _add_4(b_up, p_up[:, None] + o_in[None, :], p_up_scale + i_group, m_n, groups, b_low, b_high)
        if TWO:
            b_gate = _add_4(b_gate, p_gate[:, None] + o_in[None, :], p_gate_scale + i_group, m_n, groups, b_low, b_high)
    return b_gate, b_up


@triton.jit
def _add_2(b_sum, p_rows, m_weight, b_x0, b_x1, b_x2, b_x3):
    """To sums, one step of a ternary matrix times the tokens of all quarters of its columns."""
    b_0, b_1, b_2, b_3 = fields_of_2(tl.load(p_rows, mask=m_weight, other=0))  # pyright: ignore[reportGeneralTypeIssues]
    b_sum = tl.dot(b_0, b_x0, b_sum, out_dtype=tl.int32)
    b_sum = tl.dot(b_1, b_x1, b_sum, out_dtype=tl.int32)
    b_sum = tl.dot(b_2, b_x2, b_sum, out_dtype=tl.int32)
    return tl.dot(b_3, b_x3, b_sum, out_dtype=tl.int32)


@triton.jit
def _sums_of_2(
    p_row, m_m, p_gate, p_up, m_n, size,
    TWO: tl.constexpr, LANES: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Rows of ternary matrices, as 0 to 2, times tokens in whole numbers, which behind the last column are zeros."""
    o_k = tl.arange(0, BLOCK_K)
    b_gate, b_up = tl.zeros((LANES, BLOCK_M), tl.int32), tl.zeros((LANES, BLOCK_M), tl.int32)
    for start in range(0, size, BLOCK_K):
        o_in = start + o_k
        m_x, m_weight = (o_in < size)[:, None] & m_m[None, :], m_n[:, None] & (o_in < size)[None, :]
        p_step = p_row[None, :] + o_in[:, None]
        b_0, b_1 = tl.load(p_step, mask=m_x, other=0), tl.load(p_step + size, mask=m_x, other=0)
        b_2, b_3 = tl.load(p_step + 2 * size, mask=m_x, other=0), tl.load(p_step + 3 * size, mask=m_x, other=0)
        b_up = _add_2(b_up, p_up[:, None] + o_in[None, :], m_weight, b_0, b_1, b_2, b_3)
        if TWO:
            b_gate = _add_2(b_gate, p_gate[:, None] + o_in[None, :], m_weight, b_0, b_1, b_2, b_3)
    return b_gate, b_up


@triton.jit
def _matrix(p_stack, p_scales, expert, rows, o_row, size, scales, G: tl.constexpr):
    """Of one expert's matrix of `rows` rows, where some of them begin, and their first scales."""
    SCALE_BYTES: tl.constexpr = 2 if G > 1 else 4  # pyright: ignore[reportAssignmentType]
    p_matrix = p_stack + expert * rows * (size + scales * SCALE_BYTES)
    p_scale = p_scales + expert * rows * (size // SCALE_BYTES + scales) + rows * (size // SCALE_BYTES)
    return p_matrix + o_row * size, p_scale + o_row * scales


@triton.jit
def _whole(b_sum, p_scale, m_n, b_factor, b_count):
    """Sums in whole numbers of weights as 0 to 2 -> what they stand for."""
    b_scale = tl.load(p_scale, mask=m_n, other=0.0)[:, None]
    return (b_sum - b_count[None, :]).to(tl.float32) * (b_scale / b_factor[None, :])


@triton.jit
def _grouped(
    p_x, p_factors, p_counts, p_weights, p_slots, p_starts, p_tiles, p_count, p_gate, p_gate_scales, p_up, p_up_scales,
    p_gate_bias, p_up_bias, p_out, width, stride, units, rows, up_row, size, scales, s_bias, limit, up_offset,
    K: tl.constexpr, GATHERS: tl.constexpr, KIND: tl.constexpr, IS_GATED: tl.constexpr, IS_INTERLEAVED: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_LIMIT: tl.constexpr, WEIGHS: tl.constexpr, G: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Tiles of `units` results, by position: of gathered tokens, weighed if so, or of rows by position; through the
    activation, if there is a KIND. G: columns that share a scale; 1: int8, 0: ternary."""
    TWO: tl.constexpr = IS_GATED and not IS_INTERLEAVED  # pyright: ignore[reportAssignmentType]
    LANES: tl.constexpr = 2 * BLOCK_N if IS_INTERLEAVED else BLOCK_N
    lanes = 2 * units if IS_INTERLEAVED else units
    tiles_n = tl.cdiv(units, BLOCK_N)
    for i_tile in range(tl.program_id(0), tl.load(p_count) * tiles_n, tl.num_programs(0)):
        expert, first = tl.load(p_tiles + i_tile // tiles_n * 2), tl.load(p_tiles + i_tile // tiles_n * 2 + 1)
        i_n, expert = i_tile % tiles_n, expert.to(tl.int64)
        o_m, o_n = first + tl.arange(0, BLOCK_M), i_n * LANES + tl.arange(0, LANES)
        m_m, m_n = o_m < tl.load(p_starts + expert + 1), o_n < lanes
        b_row = o_m
        if GATHERS:
            b_slot = tl.load(p_slots + o_m, mask=m_m, other=0)
            b_row = b_slot // K
        p_row = p_x + b_row.to(tl.int64) * stride
        p_rows, p_scale = _matrix(p_up, p_up_scales, expert, rows, up_row + o_n, size, scales, G)
        p_gate_rows, p_gate_scale = p_rows, p_scale
        if TWO:
            p_gate_rows, p_gate_scale = _matrix(p_gate, p_gate_scales, expert, rows, o_n, size, scales, G)
        if G == 0:
            b_gate, b_up = _sums_of_2(p_row, m_m, p_gate_rows, p_rows, m_n, size, TWO, LANES, BLOCK_M, BLOCK_K)
            b_factor = tl.load(p_factors + b_row, mask=m_m, other=1.0)
            b_count = tl.load(p_counts + b_row, mask=m_m, other=0)
            b_up = _whole(b_up, p_scale, m_n, b_factor, b_count)
            b_gate = _whole(b_gate, p_gate_scale, m_n, b_factor, b_count)
        elif G == 1:
            b_gate, b_up = _sums_of_8(p_row, m_m, p_gate_rows, p_rows, m_n, width, TWO, LANES, BLOCK_M, BLOCK_K)
            b_up *= tl.load(p_scale, mask=m_n, other=0.0)[:, None]
            b_gate *= tl.load(p_gate_scale, mask=m_n, other=0.0)[:, None]
        else:
            b_gate, b_up = _sums_of_4(
                p_row, m_m, p_gate_rows, p_gate_scale, p_rows, p_scale, m_n, width, size, TWO, G, LANES, BLOCK_M,
                BLOCK_K,
            )  # fmt: skip
        if WEIGHS:
            b_share = tl.load(p_weights + b_slot, mask=m_m, other=0.0).to(tl.float32)[None, :]
            b_up, b_gate = b_up * b_share, b_gate * b_share
        if HAS_BIAS:
            b_up += tl.load(p_up_bias + expert * s_bias + o_n, mask=m_n, other=0.0).to(tl.float32)[:, None]
            if TWO:
                b_gate += tl.load(p_gate_bias + expert * s_bias + o_n, mask=m_n, other=0.0).to(tl.float32)[:, None]
        if IS_INTERLEAVED:
            b_gate, b_up = tl.split(tl.permute(tl.reshape(b_up, (BLOCK_N, 2, BLOCK_M)), (0, 2, 1)))
        if HAS_LIMIT:
            b_up = tl.minimum(tl.maximum(b_up, -limit), limit)
            b_gate = tl.minimum(b_gate, limit)
        if IS_GATED:
            b_up = activate(b_gate, KIND) * (b_up + up_offset)
        elif KIND != "":
            b_up = activate(b_up, KIND)
        o_unit = i_n * BLOCK_N + tl.arange(0, BLOCK_N)
        p_store = p_out + o_m.to(tl.int64)[None, :] * units + o_unit[:, None]
        tl.store(p_store, b_up.to(p_out.dtype.element_ty), mask=(o_unit < units)[:, None] & m_m[None, :])


def _step_bytes(key: Key, lanes: int, depth: int) -> int:
    """Shared memory of a step of `depth` packed bytes a row: of tokens, and of `lanes` rows of a matrix or two."""
    columns = 2 if key["group"] == 1 else 4  # in bytes: one in 16 bits, two, or four in 8
    return depth * (columns * int(key["rows"]) + lanes * (2 if key["is_gated"] else 1))


def _rule(key: Key) -> Config:
    """The tallest tiles have two warpgroups, each with half of 128 rows of a matrix or of two; products before sm_90
    need registers for tokens. As many steps ahead, to four, as shared memory holds of one block, or of two where tiles
    are low."""
    rows, group = int(key["rows"]), int(key["group"])
    if key["dtype"] == "float32":
        return {"BLOCK_N": 32, "BLOCK_K": 32, "num_warps": 4, "num_stages": 2}
    memory = launch_target().shared_memory
    is_tall = rows >= (64 if group == 0 else 128)
    is_tight = (rows == 64 and not is_tall) or (rows == 128 and memory < 200 * KIB)
    lanes, depth = 64 if key["is_gated"] and is_tight else 128, 32 if group > 1 else 64
    room = memory // (1 if is_tall else 2) - 4 * KIB
    stages = max(2, min(4, room // _step_bytes(key, lanes, depth)))
    return {"BLOCK_N": lanes, "BLOCK_K": depth, "num_warps": 8 if is_tall else 4, "num_stages": stages}


def _space(key: Key) -> tuple[Config, ...]:
    group, room = int(key["group"]), launch_target().shared_memory
    return tuple(
        {"BLOCK_N": n, "BLOCK_K": depth, "num_warps": warps, "num_stages": stages}
        for n in (64, 128)
        for depth in (32, 64, 128)
        for warps in (4, 8)
        for stages in (2, 3, 4)
        if (group <= 1 or depth <= group) and _step_bytes(key, n, depth) * stages <= room
    )


PACKED = Tunable(name="experts_packed_grouped", rule=_rule, space=_space)
TUNABLES = (PACKED,)


def _launch(given: Operands, format: str) -> Tensor:
    given, out = given.dense(), empty(given)
    slots, picks, num_experts = given.experts.numel(), given.experts.shape[-1], given.down.shape[0]
    width, rows = given.x.shape[-1], rows_of(given.up, given.x.shape[-1], format)
    inner = rows if given.packing == "separate" else rows // 2
    if not out.numel() or not picks:
        return out.zero_()
    is_gated, is_interleaved = given.gate is not None or given.packing != "separate", given.packing == "interleaved"
    gate_bias, up_bias, up_row = given.gate_bias, given.up_bias, 0
    if given.packing == "halves":
        up_row = inner
        gate_bias, up_bias = (None, None) if up_bias is None else (up_bias, up_bias[:, inner:])
    tallest = 64 if format == "ternary" else 128  # sums in whole numbers need registers for what they become
    by_expert = dispatch(given.experts, num_experts, min(tallest, tile_rows(slots, num_experts)))
    hidden, parts = out.new_empty((slots, inner)), out.new_empty((slots, width))
    stacks = (given.up if given.gate is None else given.gate, given.up)
    _multiply(
        given.x.view(-1, width), stacks, (gate_bias, up_bias), given, by_expert, hidden, (rows, up_row), format,
        K=picks, GATHERS=True, KIND=given.activation, IS_GATED=is_gated, IS_INTERLEAVED=is_interleaved,
        HAS_LIMIT=math.isfinite(given.limit), WEIGHS=given.weighs == "input",
    )  # fmt: skip
    _multiply(
        hidden, (given.down, given.down), (None, given.down_bias), given, by_expert, parts, (width, 0), format,
        K=picks, GATHERS=False, KIND="", IS_GATED=False, IS_INTERLEAVED=False, HAS_LIMIT=False, WEIGHS=False,
    )  # fmt: skip
    sum_picks(parts, given.weights, by_expert, out, picks, weighs=given.weighs == "output")
    return out


def _multiply(
    x: Tensor, stacks: tuple[Tensor, Tensor], biases: tuple[Tensor | None, Tensor | None], given: Operands,
    by_expert: Dispatch, out: Tensor, matrix: tuple[int, int], format: str, **flags: int | str,
) -> None:  # fmt: skip
    """Into out `[N * K, units]` by position, of x `[N, width]` by token, or by position; stacks and biases of gate and
    up; matrix: rows of an expert's, and the first of up."""
    width, units, group = x.shape[1], out.shape[1], GROUP[format]
    (gate, up), (gate_bias, bias) = stacks, biases
    factors = counts = None
    dtype = str(x.dtype).removeprefix("torch.")
    key = {"rows": by_expert.block, "out": units, "in": width, "group": group, "dtype": dtype}
    if format == "ternary":
        x, factors, counts, _ = normed_rows(x=x, multiple=64)
    config = dict(PACKED.config({**key, "is_gated": int(flags["IS_GATED"])}))
    if flags["IS_INTERLEAVED"]:
        config["BLOCK_N"] = max(16, config["BLOCK_N"] // 2)
    tiles_n = ceil_div(units, config["BLOCK_N"])
    launchable(_grouped)[(programs(len(by_expert.slots), len(up), by_expert.block, tiles_n),)](
        x, factors, counts, given.weights, by_expert.slots, *table(by_expert), gate, scales_of(gate, format), up,
        scales_of(up, format), gate_bias, bias, out, width, x.shape[1], units, *matrix, *row_of(width, format),
        0 if bias is None else bias.stride(0), given.limit if flags["HAS_LIMIT"] else 0.0, given.up_offset,
        HAS_BIAS=bias is not None, G=group, BLOCK_M=by_expert.block, **flags, **config,
    )  # fmt: skip


def _fake(given: Operands, format: str) -> Tensor:
    del format
    return empty(given)


packed_experts_of_many = gpu_op("packed_experts_of_many", _launch, fake=_fake, reference=packed_by_reference)
