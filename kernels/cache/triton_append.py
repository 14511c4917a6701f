"""Cache appends in Triton, one launch each: tokens go to the slots that follow from their positions, keys rotated on
the way where they have yet to be, and the positions of all slots are written beside them.

Nothing is read on the host. The views are therefore those of the reference's `is_static`: whole, with key_position -1
where a slot is empty. A token beyond the capacity is not stored, and nothing raises: whoever makes the call counts.
Floor: the new tokens, read and written once, and 8 bytes a slot for its position.
"""

# pyright: basic
from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..kernel import Request
from ..latent_attention.fields import LatentAppend
from ..record import called_with, shared
from ..rope.reference import rope_apply
from ..rope.triton_rope import rope_apply as turn
from . import reference
from .fields import Appended, KvAppend, KvState, KvWindowAppend, RopeKvAppend, RopeKvWindowAppend
from .float8 import append_float8, is_float8
from .triton_float8 import dequantise

WIDEST_HEAD = 1024
TILE = 4096
"""Elements of a token that one program moves."""
POSITIONS = 1024
"""Slots whose positions one program writes."""


def serves(request: Request) -> str | None:
    """None, or the head that is too wide."""
    names = ("key_dim", "value_dim", "rank", "rope_dim")
    too_wide = next(
        (size for size in map(request.fields.get, names) if isinstance(size, int) and size > WIDEST_HEAD), 0
    )
    return f"a head of {too_wide} is wider than {WIDEST_HEAD}" if too_wide else None


def serves_latent(request: Request) -> str | None:
    """None, or why the views had better be cut at the longest row."""
    if request.phase == "prefill":
        return "all that the views hold is expanded for a prompt, so they are cut at the longest row"
    return serves(request)


def serves_rope(request: Request) -> str | None:
    """None, or why keys cannot be rotated on the way."""
    return "rotations are float32" if request.dtype == "float64" else serves(request)


@triton.jit
def _rotated(
    p_row, p_table, b_x, o_d, m_x, ROTARY: tl.constexpr, IS_INTERLEAVED: tl.constexpr
):  # fmt: skip
    """A token's heads `[BLOCK_H, BLOCK_D]` turned by its row of the table, which is rounded to their dtype first."""
    if IS_INTERLEAVED:
        o_angle, o_other, m_left = o_d // 2, o_d ^ 1, o_d % 2 == 0
    else:
        half: tl.constexpr = ROTARY // 2
        m_left = o_d < half
        o_angle, o_other = tl.where(m_left, o_d, o_d - half), tl.where(m_left, o_d + half, o_d - half)
    m_turned = o_d < ROTARY
    b_cos = tl.load(p_table + o_angle, mask=m_turned, other=1.0).to(b_x.dtype).to(tl.float32)
    b_sin = tl.load(p_table + ROTARY // 2 + o_angle, mask=m_turned, other=0.0).to(b_x.dtype).to(tl.float32)
    b_other = tl.load(p_row + o_other[None, :], mask=m_x & m_turned[None, :], other=0.0).to(tl.float32)
    b_sin = tl.where(m_left, -b_sin, b_sin)
    return (b_x.to(tl.float32) * b_cos[None, :] + b_other * b_sin[None, :]).to(b_x.dtype)


@triton.jit
def _turn_q(
    p_q, p_turned, p_table, i_batch, i_token, first, tokens, heads, stride_qb, stride_qt, stride_tt,
    KEY_DIM: tl.constexpr, ROTARY: tl.constexpr, IS_INTERLEAVED: tl.constexpr, BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A token's query heads from `first` on, turned as its keys are; none where first is negative or no token is."""
    if (i_token < tokens) & (first >= 0):
        o_head, o_k = first + tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_K)
        m_k = (o_head < heads)[:, None] & (o_k < KEY_DIM)[None, :]
        p_row = p_q + i_batch * stride_qb + i_token.to(tl.int64) * stride_qt + o_head[:, None] * KEY_DIM
        b_q = tl.load(p_row + o_k[None, :], mask=m_k, other=0.0)
        b_q = _rotated(p_row, p_table + i_token.to(tl.int64) * stride_tt, b_q, o_k, m_k, ROTARY, IS_INTERLEAVED)
        o_row = (i_batch * tokens + i_token) * heads + o_head
        tl.store(p_turned + o_row[:, None] * KEY_DIM + o_k[None, :], b_q, mask=m_k)


@triton.jit
def append_kernel(
    p_k, p_v, p_table, p_keys, p_values, p_seen_keys, p_seen_values, p_position, p_last, p_lengths, p_at, p_q, p_turned,
    tokens, heads, slots, seen, head_tiles, q_heads, tiles,
    stride_kb, stride_kt, stride_vb, stride_vt, stride_pb, stride_pt, stride_tb, stride_tt, stride_qb, stride_qt,
    KEY_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, ROTARY: tl.constexpr, IS_INTERLEAVED: tl.constexpr,
    IS_RING: tl.constexpr, HAS_SEEN: tl.constexpr, HAS_Q: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """The first programs of a row move or turn heads of a token, the others write positions.

    `slots` are those of the buffers, `seen` those of what is read afterwards; with HAS_SEEN that is a copy, whose last
    `tokens` slots are the new tokens.
    """
    i_part, i_batch = tl.program_id(0), tl.program_id(1).to(tl.int64)
    last = tl.load(p_last + i_batch)
    i_token, i_tile = i_part // tiles, i_part % tiles
    if HAS_Q:
        _turn_q(
            p_q, p_turned, p_table + i_batch * stride_tb, i_batch, i_token, (i_tile - head_tiles) * BLOCK_H, tokens,
            q_heads, stride_qb, stride_qt, stride_tt, KEY_DIM, ROTARY, IS_INTERLEAVED, BLOCK_H, BLOCK_K,
        )  # fmt: skip
    if (i_token < tokens) & (i_tile < head_tiles):
        position = tl.load(p_position + i_batch * stride_pb + i_token * stride_pt)
        if IS_RING:
            slot = (position + slots) % slots
            is_written = (position >= 0) & (position > last - slots)
        else:
            slot = position
            is_written = (position >= 0) & (position < slots)
        o_head = i_tile * BLOCK_H + tl.arange(0, BLOCK_H)
        m_head = (o_head < heads)[:, None]
        o_k, o_v = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_V)
        m_k, m_v = m_head & (o_k < KEY_DIM)[None, :], m_head & (o_v < VALUE_DIM)[None, :]
        p_row = p_k + i_batch * stride_kb + i_token.to(tl.int64) * stride_kt + o_head[:, None] * KEY_DIM
        b_k = tl.load(p_row + o_k[None, :], mask=m_k, other=0.0)
        if ROTARY:
            p_angles = p_table + i_batch * stride_tb + i_token.to(tl.int64) * stride_tt
            b_k = _rotated(p_row, p_angles, b_k, o_k, m_k, ROTARY, IS_INTERLEAVED)
        p_row = p_v + i_batch * stride_vb + i_token.to(tl.int64) * stride_vt + o_head[:, None] * VALUE_DIM
        b_v = tl.load(p_row + o_v[None, :], mask=m_v, other=0.0)
        o_row = (i_batch * heads + o_head) * slots + slot
        b_k, b_v = b_k.to(p_keys.dtype.element_ty), b_v.to(p_values.dtype.element_ty)
        tl.store(p_keys + o_row[:, None] * KEY_DIM + o_k[None, :], b_k, mask=m_k & is_written)
        tl.store(p_values + o_row[:, None] * VALUE_DIM + o_v[None, :], b_v, mask=m_v & is_written)
        if HAS_SEEN:
            o_row = (i_batch * heads + o_head) * seen + slots + i_token
            tl.store(p_seen_keys + o_row[:, None] * KEY_DIM + o_k[None, :], b_k, mask=m_k)
            tl.store(p_seen_values + o_row[:, None] * VALUE_DIM + o_v[None, :], b_v, mask=m_v)
    elif i_token >= tokens:
        length = tl.load(p_lengths + i_batch)
        if not HAS_SEEN:
            length = tl.maximum(length, last + 1)
        o_slot = (i_part - tokens * tiles) * POSITIONS + tl.arange(0, POSITIONS)
        if IS_RING:
            b_at = tl.maximum(length - 1 - (length - 1 - o_slot + slots) % slots, -1)
        else:
            b_at = tl.where(o_slot < length, o_slot, -1).to(tl.int64)
        if HAS_SEEN:
            p_new = p_position + i_batch * stride_pb + (o_slot - slots) * stride_pt
            b_new = tl.load(p_new, mask=(o_slot >= slots) & (o_slot < seen), other=-1)
            b_at = tl.where(o_slot < slots, b_at, b_new)
        tl.store(p_at + i_batch * seen + o_slot, b_at, mask=o_slot < seen)


class Tokens(NamedTuple):
    """New tokens and the buffers that they join, as operators of torch take them."""

    q: Tensor | None
    k: Tensor
    v: Tensor
    table: Tensor | None
    """By which q and k are turned; absent: they are not."""
    keys: Tensor
    values: Tensor
    position: Tensor
    lengths: Tensor


def _run(
    x: Tokens, copies: tuple[Tensor, Tensor] | None, is_ring: bool, rotary_dim: int, is_interleaved: bool
) -> tuple[Tensor, Tensor]:
    """Positions of what may be read `[B, S]`, and q turned; `copies` get the new tokens, behind the ring as it was."""
    q, k, v, table, keys, values, position, lengths = x
    if not (keys.is_contiguous() and values.is_contiguous()):
        raise ValueError("the buffers of a cache are contiguous")
    k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (k, v))
    (batch, tokens), (heads, slots, key_dim), value_dim = position.shape, keys.shape[1:], values.shape[-1]
    seen = slots if copies is None else slots + tokens
    at = position.new_empty((batch, seen))
    turned = k.new_empty((0,) if q is None else q.shape)
    if not at.numel():
        return at, turned
    if q is not None:
        q = q if q.stride(-1) == 1 else q.contiguous()
    q_heads = 0 if q is None else q.shape[-1] // key_dim
    block_k, block_v = power_of_2(key_dim), power_of_2(value_dim)
    block_h = max(1, min(power_of_2(heads), TILE // max(block_k, block_v)))
    head_tiles = ceil_div(heads, block_h)
    tiles = head_tiles + ceil_div(q_heads, block_h)
    last = position if tokens == 1 else position.amax(1) if tokens else torch.full_like(lengths, -1)
    launchable(append_kernel)[(tokens * tiles + ceil_div(seen, POSITIONS), batch)](
        k, v, table, keys, values, None if copies is None else copies[0], None if copies is None else copies[1],
        position, last.contiguous(), lengths.contiguous(), at, q, turned,
        tokens, heads, slots, seen, head_tiles, q_heads, tiles,
        k.stride(0), k.stride(1), v.stride(0), v.stride(1), *position.stride(),
        *((0, 0) if table is None else table.stride()[:2]), *((0, 0) if q is None else q.stride()[:2]),
        KEY_DIM=key_dim, VALUE_DIM=value_dim, ROTARY=0 if table is None else rotary_dim,
        IS_INTERLEAVED=is_interleaved, IS_RING=is_ring, HAS_SEEN=copies is not None, HAS_Q=q is not None,
        BLOCK_H=block_h, BLOCK_K=block_k, BLOCK_V=block_v, POSITIONS=POSITIONS, num_warps=4,
    )  # fmt: skip
    return at, turned


def _launch(x: Tokens, is_ring: bool, rotary_dim: int, is_interleaved: bool) -> tuple[Tensor, Tensor]:
    return _run(x, None, is_ring, rotary_dim, is_interleaved)


def _fake(x: Tokens, is_ring: bool, rotary_dim: int, is_interleaved: bool) -> tuple[Tensor, Tensor]:
    turned = x.k.new_empty((0,) if x.q is None else x.q.shape)
    return x.position.new_empty((x.position.shape[0], x.keys.shape[2])), turned


def _reference(x: Tokens, is_ring: bool, rotary_dim: int, is_interleaved: bool) -> tuple[Tensor, Tensor]:
    read, turned = _defined(x, is_ring, rotary_dim, is_interleaved)
    return read[2], turned


def _launch_seen(x: Tokens, rotary_dim: int, is_interleaved: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    ring = x.keys.shape[2]
    seen_keys, seen_values, _, _ = _fake_seen(x, rotary_dim, is_interleaved)
    seen_keys[:, :, :ring].copy_(x.keys)
    seen_values[:, :, :ring].copy_(x.values)
    at, turned = _run(x, (seen_keys, seen_values), True, rotary_dim, is_interleaved)
    return seen_keys, seen_values, at, turned


def _fake_seen(x: Tokens, rotary_dim: int, is_interleaved: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    seen = x.keys.shape[2] + x.position.shape[1]
    seen_keys, seen_values = (part.new_empty((*part.shape[:2], seen, part.shape[3])) for part in (x.keys, x.values))
    at = x.position.new_empty((x.position.shape[0], seen))
    return seen_keys, seen_values, at, x.k.new_empty((0,) if x.q is None else x.q.shape)


def _reference_seen(x: Tokens, rotary_dim: int, is_interleaved: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    read, turned = _defined(x, True, rotary_dim, is_interleaved)
    return *read, turned


def _defined(
    x: Tokens, is_ring: bool, rotary_dim: int, is_interleaved: bool
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """What may be read, and q turned."""
    k, turned = x.k, x.k.new_empty(0)
    if x.table is not None:
        turn = {"table": x.table, "head_dim": x.keys.shape[3], "rotary_dim": rotary_dim}
        turn["layout"] = "interleaved" if is_interleaved else "half"
        k = rope_apply(x=k, **turn)
        turned = turned if x.q is None else rope_apply(x=x.q, **turn)
    call = {
        "state": (x.keys, x.values), "k": k, "v": x.v, "position": x.position, "lengths": x.lengths,
        "heads": x.keys.shape[1], "key_dim": x.keys.shape[3], "value_dim": x.values.shape[3], "is_static": True,
    }  # fmt: skip
    if is_ring:
        return reference.kv_window_append(window=x.keys.shape[2], **call)[1:], turned
    return reference.kv_full_append(**call)[1:], turned


STATE = ("keys", "values")
_append = gpu_op("kv_append", _launch, fake=_fake, reference=_reference, mutates_args=STATE)
_append_seen = gpu_op("kv_append_seen", _launch_seen, fake=_fake_seen, reference=_reference_seen, mutates_args=STATE)


def _appended(given: KvAppend, *, is_ring: bool) -> tuple[KvState, Tensor, Tensor, Tensor, Tensor]:
    """The result of the reference's `is_static`, and q turned; keys are turned where the record has a table."""
    if is_float8(given.state):
        return _appended_float8(given, is_ring=is_ring)
    rope = given if isinstance(given, RopeKvAppend) else None
    keys, values = given.state[0], given.state[1]
    x = Tokens(
        rope.q if rope else None, given.k, given.v, rope.table if rope else None, keys, values, given.position,
        given.lengths,
    )  # fmt: skip
    turn = ((rope.rotary_dim or given.key_dim) if rope else 0, rope is not None and rope.layout == "interleaved")
    if is_ring and given.k.shape[1] != 1:
        return given.state, *_append_seen(*x, *turn)
    at, turned = _append(*x, is_ring, *turn)
    return given.state, keys, values, at, turned


def _appended_float8(given: KvAppend, *, is_ring: bool) -> tuple[KvState, Tensor, Tensor, Tensor, Tensor]:
    """Keys turned, then numbers and scales, each by an append of its own; what is read is expanded."""
    turned, k = given.k.new_empty(0), given.k
    if isinstance(given, RopeKvAppend):
        rule = {"table": given.table, "head_dim": given.key_dim, "layout": given.layout}
        rule["rotary_dim"] = given.rotary_dim or given.key_dim
        k = turn(x=k, **rule)
        turned = turned if given.q is None else turn(x=given.q, **rule)
    plain = KvAppend(**{**shared(given, KvAppend), "k": k})

    def move(given: KvAppend) -> Appended:
        return _appended(given, is_ring=is_ring)[:4]

    return *append_float8(move, dequantise, plain), turned


@called_with(KvAppend)
def kv_full_append(given: KvAppend) -> Appended:
    """Arguments are those of the reference, the result that of its `is_static`, whichever is asked for."""
    return _appended(given, is_ring=False)[:4]


@called_with(KvWindowAppend)
def kv_window_append(given: KvWindowAppend) -> Appended:
    """Arguments are those of the reference, the result that of its `is_static`, whichever is asked for."""
    return _appended(given, is_ring=True)[:4]


@called_with(LatentAppend)
def kv_latent_append(given: LatentAppend) -> Appended:
    """Arguments are those of the reference, the result that of its `is_static`, whichever is asked for."""
    return _appended(given.by_head(), is_ring=False)[:4]


@called_with(RopeKvAppend)
def rope_kv_full_append(given: RopeKvAppend) -> tuple[KvState, Tensor, Tensor, Tensor, Tensor | None]:
    """Arguments are those of the reference, the result that of its `is_static`, whichever is asked for."""
    found = _appended(given, is_ring=False)
    return *found[:4], None if given.q is None else found[4]


@called_with(RopeKvWindowAppend)
def rope_kv_window_append(given: RopeKvWindowAppend) -> tuple[KvState, Tensor, Tensor, Tensor, Tensor | None]:
    """Arguments are those of the reference, the result that of its `is_static`, whichever is asked for."""
    found = _appended(given, is_ring=True)
    return *found[:4], None if given.q is None else found[4]
