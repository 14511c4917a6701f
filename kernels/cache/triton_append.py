"""Cache appends in Triton, one launch each: tokens go to the slots that follow from their positions, keys rotated on
the way where they have yet to be, and the positions of all slots are written beside them.

Nothing is read on the host. The views are therefore those of the reference's `is_static`: whole, with key_position -1
where a slot is empty. A token beyond the capacity is not stored, and nothing raises: whoever makes the call counts.
Floor: the new tokens, read and written once, and 8 bytes a slot for its position.
"""

# pyright: basic
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..kernel import Request
from ..rope.fields import RopeLayout
from ..rope.reference import rope_apply
from ..rope.triton_rope import rope_apply as turn
from . import reference
from .float8 import KvState, append_float8, is_float8
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


def _run(
    q: Tensor | None, k: Tensor, v: Tensor, table: Tensor | None, keys: Tensor, values: Tensor,
    copies: tuple[Tensor, Tensor] | None, position: Tensor, lengths: Tensor, is_ring: bool, rotary_dim: int,
    is_interleaved: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Positions of what may be read `[B, S]`, and q turned; `copies` get the new tokens, behind the ring as it was."""
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


def _launch(
    q: Tensor | None, k: Tensor, v: Tensor, table: Tensor | None, keys: Tensor, values: Tensor, position: Tensor,
    lengths: Tensor, is_ring: bool, rotary_dim: int, is_interleaved: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _run(q, k, v, table, keys, values, None, position, lengths, is_ring, rotary_dim, is_interleaved)


def _fake(
    q: Tensor | None, k: Tensor, v: Tensor, table: Tensor | None, keys: Tensor, values: Tensor, position: Tensor,
    lengths: Tensor, is_ring: bool, rotary_dim: int, is_interleaved: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return position.new_empty((position.shape[0], keys.shape[2])), k.new_empty((0,) if q is None else q.shape)


def _reference(
    q: Tensor | None, k: Tensor, v: Tensor, table: Tensor | None, keys: Tensor, values: Tensor, position: Tensor,
    lengths: Tensor, is_ring: bool, rotary_dim: int, is_interleaved: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    read, turned = _defined(q, k, v, table, keys, values, position, lengths, is_ring, rotary_dim, is_interleaved)
    return read[2], turned


def _launch_seen(
    q: Tensor | None, k: Tensor, v: Tensor, table: Tensor | None, keys: Tensor, values: Tensor, position: Tensor,
    lengths: Tensor, rotary_dim: int, is_interleaved: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    ring, tokens = keys.shape[2], position.shape[1]
    seen_keys, seen_values = (x.new_empty((*x.shape[:2], ring + tokens, x.shape[3])) for x in (keys, values))
    seen_keys[:, :, :ring].copy_(keys)
    seen_values[:, :, :ring].copy_(values)
    copies = (seen_keys, seen_values)
    at, turned = _run(q, k, v, table, keys, values, copies, position, lengths, True, rotary_dim, is_interleaved)
    return seen_keys, seen_values, at, turned


def _fake_seen(
    q: Tensor | None, k: Tensor, v: Tensor, table: Tensor | None, keys: Tensor, values: Tensor, position: Tensor,
    lengths: Tensor, rotary_dim: int, is_interleaved: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    seen = keys.shape[2] + position.shape[1]
    copies = [x.new_empty((*x.shape[:2], seen, x.shape[3])) for x in (keys, values)]
    at = position.new_empty((position.shape[0], seen))
    return copies[0], copies[1], at, k.new_empty((0,) if q is None else q.shape)


def _reference_seen(
    q: Tensor | None, k: Tensor, v: Tensor, table: Tensor | None, keys: Tensor, values: Tensor, position: Tensor,
    lengths: Tensor, rotary_dim: int, is_interleaved: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    read, turned = _defined(q, k, v, table, keys, values, position, lengths, True, rotary_dim, is_interleaved)
    return *read, turned


def _defined(
    q: Tensor | None, k: Tensor, v: Tensor, table: Tensor | None, keys: Tensor, values: Tensor, position: Tensor,
    lengths: Tensor, is_ring: bool, rotary_dim: int, is_interleaved: bool,
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:  # fmt: skip
    sizes = {"heads": keys.shape[1], "key_dim": keys.shape[3], "value_dim": values.shape[3]}
    call = {"state": (keys, values), "v": v, "position": position, "lengths": lengths, **sizes, "is_static": True}
    turned = k.new_empty(0)
    if table is not None:
        turn = {"table": table, "head_dim": keys.shape[3], "rotary_dim": rotary_dim}
        turn["layout"] = "interleaved" if is_interleaved else "half"
        k = rope_apply(x=k, **turn)
        turned = turned if q is None else rope_apply(x=q, **turn)
    if is_ring:
        return reference.kv_window_append(k=k, window=keys.shape[2], **call)[1:], turned
    return reference.kv_full_append(k=k, **call)[1:], turned


STATE = ("keys", "values")
_append = gpu_op("kv_append", _launch, fake=_fake, reference=_reference, mutates_args=STATE)
_append_seen = gpu_op("kv_append_seen", _launch_seen, fake=_fake_seen, reference=_reference_seen, mutates_args=STATE)


def _appended(
    state: KvState, k: Tensor, v: Tensor, position: Tensor, lengths: Tensor, *, is_ring: bool,
    table: Tensor | None = None, rotary_dim: int = 0, layout: RopeLayout = "half", q: Tensor | None = None,
) -> tuple[KvState, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    if is_float8(state):
        return _appended_float8(state, k, v, position, lengths, is_ring, table, rotary_dim, layout, q)
    keys, values = state[0], state[1]
    is_interleaved = layout == "interleaved"
    if is_ring and k.shape[1] != 1:
        return state, *_append_seen(q, k, v, table, keys, values, position, lengths, rotary_dim, is_interleaved)
    at, turned = _append(q, k, v, table, keys, values, position, lengths, is_ring, rotary_dim, is_interleaved)
    return state, keys, values, at, turned


def _appended_float8(
    state: KvState, k: Tensor, v: Tensor, position: Tensor, lengths: Tensor, is_ring: bool, table: Tensor | None,
    rotary_dim: int, layout: RopeLayout, q: Tensor | None,
) -> tuple[KvState, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Keys turned, then numbers and scales, each by an append of its own; what is read is expanded."""
    (heads, _, key_dim), value_dim = state[0].shape[1:], state[1].shape[-1]
    turned = k.new_empty(0)
    if table is not None:
        k = turn(x=k, table=table, head_dim=key_dim, rotary_dim=rotary_dim, layout=layout)
        if q is not None:
            turned = turn(x=q, table=table, head_dim=key_dim, rotary_dim=rotary_dim, layout=layout)

    def move(*, state: KvState, k: Tensor, v: Tensor, **_sizes: int):
        return _appended(state, k, v, position, lengths, is_ring=is_ring)[:4]

    sizes = {"heads": heads, "key_dim": key_dim, "value_dim": value_dim}
    found = append_float8(move, dequantise, state=state, k=k, v=v, sizes=sizes, call={})
    return *found, turned


def kv_full_append(
    *,
    state: KvState,
    k: Tensor,
    v: Tensor,
    position: Tensor,
    lengths: Tensor,
    heads: int,
    key_dim: int,
    value_dim: int,
    is_static: bool = False,
) -> tuple[KvState, Tensor, Tensor, Tensor]:
    """Arguments are those of the reference, the result that of its `is_static`, whichever is asked for."""
    return _appended(state, k, v, position, lengths, is_ring=False)[:4]


def kv_window_append(
    *,
    state: KvState,
    k: Tensor,
    v: Tensor,
    position: Tensor,
    lengths: Tensor,
    heads: int,
    key_dim: int,
    value_dim: int,
    window: int,
    is_static: bool = False,
) -> tuple[KvState, Tensor, Tensor, Tensor]:
    """Arguments are those of the reference, the result that of its `is_static`, whichever is asked for."""
    return _appended(state, k, v, position, lengths, is_ring=True)[:4]


def kv_latent_append(
    *,
    state: KvState,
    latent: Tensor,
    k_rope: Tensor,
    position: Tensor,
    lengths: Tensor,
    rank: int,
    rope_dim: int,
    is_static: bool = False,
) -> tuple[KvState, Tensor, Tensor, Tensor]:
    """Arguments are those of the reference, the result that of its `is_static`, whichever is asked for."""
    return _appended(state, latent, k_rope, position, lengths, is_ring=False)[:4]


def rope_kv_full_append(
    *,
    state: KvState,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    position: Tensor,
    lengths: Tensor,
    heads: int,
    key_dim: int,
    value_dim: int,
    rotary_dim: int | None = None,
    layout: RopeLayout = "half",
    q: Tensor | None = None,
    is_static: bool = False,
) -> tuple[KvState, Tensor, Tensor, Tensor, Tensor | None]:
    """Arguments are those of the reference, the result that of its `is_static`, whichever is asked for."""
    dims = rotary_dim or key_dim
    found = _appended(state, k, v, position, lengths, is_ring=False, table=table, rotary_dim=dims, layout=layout, q=q)
    return *found[:4], None if q is None else found[4]


def rope_kv_window_append(
    *,
    state: KvState,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    position: Tensor,
    lengths: Tensor,
    heads: int,
    key_dim: int,
    value_dim: int,
    window: int,
    rotary_dim: int | None = None,
    layout: RopeLayout = "half",
    q: Tensor | None = None,
    is_static: bool = False,
) -> tuple[KvState, Tensor, Tensor, Tensor, Tensor | None]:
    """Arguments are those of the reference, the result that of its `is_static`, whichever is asked for."""
    dims = rotary_dim or key_dim
    found = _appended(state, k, v, position, lengths, is_ring=True, table=table, rotary_dim=dims, layout=layout, q=q)
    return *found[:4], None if q is None else found[4]
