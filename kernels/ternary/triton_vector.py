"""One to a few tokens through a ternary layer in one Triton launch: sum, norm, rounding, product, bias and gate.

Every program reads the whole token anyway, so that it sums, normalises and rounds it for itself: one launch instead of
two, for two or three loads of the token by each program, out of the first-level cache but for its first reader.
Floor: the packed bytes, O * I / 4. Four weights of one field times four activations are one instruction behind two
(shift and mask), 11 for 16 weights with what scales them, which four multiprocessor pipes of 132 keep up to 5 TB/s.
A program goes through several tiles of rows with the token in registers, the next tile's weights on their way.
"""

# pyright: basic
from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.activations import activate
from ..gpu.bytes import dot4
from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..gpu.tuning import Config, Key, Tunable
from ..norm.row_blocks import rows_of as flat_rows
from ..norm.triton_quantise import factor_of, whole_product
from . import reference
from .fields import NormedProjection, Projection, Ternary
from .triton_pack import quarter, rows_of, scales_of, unpack

FEW = 4
"""Tokens up to which each reads the weights for itself, from the second on out of the cache."""
WIDEST = 16384
"""Features of a token that a program holds in registers: 32 a thread, of at most 512 threads."""
PROGRAMS = 4 * 132
"""Four on each multiprocessor of an H100: with two tiles of 4 KiB in flight each, 32 KiB."""
_FIELD = tl.constexpr(0x03030303)


@triton.jit
def _quarter(p_x, p_delta, p_sum, o_x, m_x, m_sum, HAS_DELTA: tl.constexpr):
    """A quarter of a token `[WORDS, 4]` in its own dtype, after the sum, which is stored where `m_sum`."""
    b_x = tl.load(p_x + o_x, mask=m_x, other=0.0, eviction_policy="evict_last")
    if HAS_DELTA:
        b_delta = tl.load(p_delta + o_x, mask=m_x, other=0.0, eviction_policy="evict_last")
        b_x = (b_x.to(tl.float32) + b_delta.to(tl.float32)).to(b_x.dtype)
        tl.store(p_sum + o_x, b_x, mask=m_sum)
    return b_x


@triton.jit
def _normal(b_x, rstd, p_norm, o_x, m_x, offset, HAS_WEIGHT: tl.constexpr, HAS_OFFSET: tl.constexpr):
    """A quarter normalised, rounded as the reference rounds it, in float32."""
    b_out = b_x.to(tl.float32) * rstd
    if HAS_WEIGHT:
        b_weight = tl.load(p_norm + o_x, mask=m_x, other=0.0, eviction_policy="evict_last")
        if HAS_OFFSET:
            b_out = b_out * (b_weight.to(tl.float32) + offset)
        else:
            b_out = (b_out.to(b_x.dtype) * b_weight).to(tl.float32)
    return b_out.to(b_x.dtype).to(tl.float32)


@triton.jit
def _words(b_x, factor):
    """A quarter `[WORDS, 4]` float32 -> its whole numbers as bytes of words `[WORDS]` int32, and their sum."""
    b_whole = whole_product(b_x, factor)
    return tl.sum((b_whole & 0xFF) << (8 * tl.arange(0, 4))[None, :], 1), tl.sum(tl.sum(b_whole, 1), 0)


@triton.jit
def _tile(p_weight, i_row, m_row, o_word, m_word, words):
    o_weight = i_row.to(tl.int64)[:, None] * words + o_word[None, :]
    m_weight = m_row[:, None] & m_word[None, :]
    return tl.load(p_weight + o_weight, mask=m_weight, other=0, eviction_policy="evict_first")


@triton.jit
def _product(b_weight, b_0, b_1, b_2, b_3, count):
    """Sums `[BLOCK_OUT]` of a tile of words `[BLOCK_OUT, WORDS]` with the token's."""
    b_sum = dot4(b_weight & _FIELD, b_0[None, :], tl.zeros(b_weight.shape, tl.int32))
    b_sum = dot4((b_weight >> 2) & _FIELD, b_1[None, :], b_sum)
    b_sum = dot4((b_weight >> 4) & _FIELD, b_2[None, :], b_sum)
    b_sum = dot4((b_weight >> 6) & _FIELD, b_3[None, :], b_sum)
    return (tl.sum(b_sum, 1) - count).to(tl.float32)


@triton.jit
def _vector(
    p_x, p_delta, p_norm, p_weight, p_scale, p_bias, p_out, p_sum, width, words, outputs, stride, stride_delta, eps,
    offset, HAS_NORM: tl.constexpr, HAS_DELTA: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_OFFSET: tl.constexpr,
    HAS_BIAS: tl.constexpr, KIND: tl.constexpr, LARGEST: tl.constexpr, WORDS: tl.constexpr, BLOCK_OUT: tl.constexpr,
    TILES: tl.constexpr,
):  # fmt: skip
    """TILES tiles of BLOCK_OUT outputs of one token; the first program of a token also writes the sum."""
    IS_GATED: tl.constexpr = KIND != ""
    i_tile, i_token = tl.program_id(0) * TILES, tl.program_id(1).to(tl.int64)
    o_word = tl.arange(0, WORDS)
    m_word = o_word < words
    i_row = i_tile * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    end = tl.minimum(outputs, (i_tile + TILES) * BLOCK_OUT)
    b_next = _tile(p_weight, i_row, i_row < end, o_word, m_word, words)
    b_next_up = b_next
    if IS_GATED:
        b_next_up = _tile(p_weight, outputs + i_row, i_row < end, o_word, m_word, words)

    p_x += i_token * stride
    p_delta += i_token * stride_delta
    p_sum += i_token * width
    o_0 = 4 * o_word[:, None] + tl.arange(0, 4)[None, :]
    o_1, o_2, o_3 = o_0 + 4 * words, o_0 + 8 * words, o_0 + 12 * words
    m_0 = m_word[:, None] & (o_0 < width)
    m_1, m_2, m_3 = m_word[:, None] & (o_1 < width), m_word[:, None] & (o_2 < width), m_word[:, None] & (o_3 < width)
    m_first = i_tile == 0
    b_0 = _quarter(p_x, p_delta, p_sum, o_0, m_0, m_0 & m_first, HAS_DELTA)
    b_1 = _quarter(p_x, p_delta, p_sum, o_1, m_1, m_1 & m_first, HAS_DELTA)
    b_2 = _quarter(p_x, p_delta, p_sum, o_2, m_2, m_2 & m_first, HAS_DELTA)
    b_3 = _quarter(p_x, p_delta, p_sum, o_3, m_3, m_3 & m_first, HAS_DELTA)
    if HAS_NORM:
        b_squares = b_0.to(tl.float32) * b_0.to(tl.float32) + b_1.to(tl.float32) * b_1.to(tl.float32)
        b_squares += b_2.to(tl.float32) * b_2.to(tl.float32) + b_3.to(tl.float32) * b_3.to(tl.float32)
        rstd = tl.rsqrt(tl.sum(tl.sum(b_squares, 1), 0) / width + eps)
        b_0 = _normal(b_0, rstd, p_norm, o_0, m_0, offset, HAS_WEIGHT, HAS_OFFSET)
        b_1 = _normal(b_1, rstd, p_norm, o_1, m_1, offset, HAS_WEIGHT, HAS_OFFSET)
        b_2 = _normal(b_2, rstd, p_norm, o_2, m_2, offset, HAS_WEIGHT, HAS_OFFSET)
        b_3 = _normal(b_3, rstd, p_norm, o_3, m_3, offset, HAS_WEIGHT, HAS_OFFSET)
    else:
        b_0, b_1, b_2, b_3 = b_0.to(tl.float32), b_1.to(tl.float32), b_2.to(tl.float32), b_3.to(tl.float32)
    b_largest = tl.maximum(tl.maximum(tl.abs(b_0), tl.abs(b_1)), tl.maximum(tl.abs(b_2), tl.abs(b_3)))
    b_nothing = b_0 * 0.0 + b_1 * 0.0 + (b_2 * 0.0 + b_3 * 0.0)
    factor = factor_of(tl.max(tl.max(b_largest, 1), 0), tl.sum(tl.sum(b_nothing, 1), 0), LARGEST)
    b_0, count_0 = _words(b_0, factor)  # pyright: ignore[reportGeneralTypeIssues]
    b_1, count_1 = _words(b_1, factor)  # pyright: ignore[reportGeneralTypeIssues]
    b_2, count_2 = _words(b_2, factor)  # pyright: ignore[reportGeneralTypeIssues]
    b_3, count_3 = _words(b_3, factor)  # pyright: ignore[reportGeneralTypeIssues]
    count = count_0 + count_1 + (count_2 + count_3)

    for _ in range(TILES):
        b_weight, b_up = b_next, b_next_up
        i_now, m_now = i_row, i_row < end
        i_row += BLOCK_OUT
        b_next = _tile(p_weight, i_row, i_row < end, o_word, m_word, words)
        b_out = _product(b_weight, b_0, b_1, b_2, b_3, count)
        b_out *= tl.load(p_scale + i_now, mask=m_now, other=0.0) / factor
        if HAS_BIAS:
            b_out += tl.load(p_bias + i_now, mask=m_now, other=0.0).to(tl.float32)
        if IS_GATED:
            b_next_up = _tile(p_weight, outputs + i_row, i_row < end, o_word, m_word, words)
            b_gated = _product(b_up, b_0, b_1, b_2, b_3, count)
            b_gated *= tl.load(p_scale + outputs + i_now, mask=m_now, other=0.0) / factor
            if HAS_BIAS:
                b_gated += tl.load(p_bias + outputs + i_now, mask=m_now, other=0.0).to(tl.float32)
            b_out = activate(b_out, KIND) * b_gated
        else:
            b_next_up = b_next
        tl.store(p_out + i_token * outputs + i_now, b_out.to(p_out.dtype.element_ty), mask=m_now)


def _rule(key: Key) -> Config:
    """Threads for 32 features each; tiles of 16 words a thread, so many a program that there are four programs a
    multiprocessor."""
    words, outputs = power_of_2(int(key["words"])), int(key["outputs"])
    warps = min(16, max(4, words // 64))
    block = max(1, 32 * warps * 16 // words // (2 if key["is_gated"] else 1))
    return {"BLOCK_OUT": block, "TILES": power_of_2(ceil_div(ceil_div(outputs, block), PROGRAMS)), "num_warps": warps}


def _space(key: Key) -> tuple[Config, ...]:
    return tuple(
        {"BLOCK_OUT": block, "TILES": tiles, "num_warps": warps}
        for block in (2, 4, 8, 16)
        for tiles in (1, 2, 4, 8)
        for warps in (2, 4, 8, 16)
        if block * int(key["words"]) <= 64 * 32 * warps and int(key["words"]) <= 128 * warps
    )


VECTOR = Tunable(name="ternary_vector", rule=_rule, space=_space)
TUNABLES = (VECTOR,)


class Layer(NamedTuple):
    """A ternary layer with what stands before and after it, as an operator of torch takes it."""

    x: Tensor
    delta: Tensor | None
    """Added to x first."""
    norm_weight: Tensor | None
    packed: Tensor
    bias: Tensor | None
    has_norm: bool
    eps: float
    weight_offset: float
    bits: int
    kind: str
    """Of a gate; empty: none."""

    @staticmethod
    def of(given: Ternary, x: Tensor, delta: Tensor | None = None) -> Layer:
        """What a record of a ternary layer says. Activations are rounded."""
        assert given.activation_bits is not None
        norm = given if isinstance(given, NormedProjection) else None
        kind = given.kind if isinstance(given, Projection) else None
        return Layer(
            x, delta, norm.norm_weight if norm else None, given.weight, given.bias, norm is not None,
            norm.eps if norm else 0.0, norm.weight_offset if norm else 0.0, given.activation_bits, kind or "",
        )  # fmt: skip


def _launch(given: Layer) -> tuple[Tensor, Tensor]:
    x, delta, norm, packed, bias, has_norm, eps, offset, bits, kind = given
    out, total = _fake(given)
    width, outputs = x.shape[-1], out.shape[-1]
    tokens = x.numel() // width
    if tokens:
        flat = flat_rows(x)
        flat_delta = flat if delta is None else flat_rows(delta)
        words = quarter(width) // 4
        config = VECTOR.config({"outputs": outputs, "words": words, "is_gated": int(kind != "")})
        launchable(_vector)[(ceil_div(outputs, config["BLOCK_OUT"] * config["TILES"]), tokens)](
            flat, flat_delta, norm, packed.view(torch.int32), scales_of(packed, width), bias, out, total, width, words,
            outputs, flat.stride(0), flat_delta.stride(0), eps, offset, HAS_NORM=has_norm,
            HAS_DELTA=delta is not None, HAS_WEIGHT=norm is not None, HAS_OFFSET=offset != 0.0,
            HAS_BIAS=bias is not None, KIND=kind, LARGEST=2 ** (bits - 1) - 1, WORDS=power_of_2(words), **config,
        )  # fmt: skip
    return out, total


def _fake(given: Layer) -> tuple[Tensor, Tensor]:
    x, rows = given.x, rows_of(given.packed, given.x.shape[-1])
    out = x.new_empty((*x.shape[:-1], rows // 2 if given.kind else rows))
    return out, x.new_empty((0,) if given.delta is None else x.shape)


def _reference(given: Layer) -> tuple[Tensor, Tensor]:
    x, delta, norm, packed, bias, has_norm, eps, offset, bits, kind = given
    total = x if delta is None else x + delta
    normal = reference.rms_norm(x=total, weight=norm, eps=eps, weight_offset=offset) if has_norm else total
    whole, factor = reference.quantised_activation(normal, bits)
    ternary, scales = unpack(packed, x.shape[-1])
    out = (whole @ ternary.to(whole.dtype).T) * (scales / factor)
    out = out if bias is None else out + bias
    gated = reference.gated_activation_packed(x=out, kind=kind) if kind else out  # pyright: ignore[reportArgumentType]
    return gated.to(x.dtype), x.new_empty(0) if delta is None else total.contiguous()


_layer = gpu_op("ternary_vector", _launch, fake=_fake, reference=_reference)


def serves_few(x: Tensor) -> bool:
    """Whether there are few enough tokens, and features of each, by shapes alone."""
    return x.numel() <= FEW * x.shape[-1] and x.shape[-1] <= WIDEST


def layer(given: Layer) -> tuple[Tensor, Tensor]:
    """What the reference's projections give, of `x + delta` and after an RMS norm where there is one; and that sum."""
    return _layer(*given)
