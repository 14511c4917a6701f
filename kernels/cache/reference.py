"""How a call's tokens join the cache: the definitions of the `…_append` ops, and `shared_keys`.

Both write into the buffers they are given and return them: a state has one owner. Rows are compact, so that a token's
slot follows from its position, whatever the padding of the batch. Run them without autograd; training has no states.
"""

from __future__ import annotations

from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from ..record import called_with, changed
from ..rope.reference import rope_apply
from .fields import Appended, KvAppend, KvState, KvWindowAppend, RopeKvAppend, RopeKvWindowAppend
from .float8 import append_float8, dequantise, is_float8

CrossState: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Keys `[B, Hkv, S, D]`, values `[B, Hkv, S, Dv]` and their positions `[B, S]` int64."""


def _shared_start(position: Tensor) -> int | None:
    """The first position if all rows hold one run of consecutive positions, else None. Reads on the host."""
    start = int(position[0, 0])
    if start < 0:
        return None
    if position.numel() == 1:
        return start
    run = torch.arange(start, start + position.shape[1], device=position.device)
    return start if bool((position == run).all()) else None


def _write(buffer: Tensor, new: Tensor, slot: Tensor, is_written: Tensor) -> None:
    """Stores new `[B, T, Hkv, D]` in slot `[B, T]` of buffer `[B, Hkv, slots, D]` where `is_written`; no host read.

    A token that is not written repeats one of its row that is, so that equal slots receive equal values; a row without
    any keeps slot 0.
    """
    order = torch.arange(new.shape[1], device=new.device)
    spare = (is_written * (order + 1)).argmax(1, keepdim=True)
    source = torch.where(is_written, order, spare)
    row = torch.arange(new.shape[0], device=new.device)[:, None]
    has_any = is_written.any(1, keepdim=True)
    target = torch.where(has_any, slot.gather(1, source), 0)
    buffer[row, :, target] = torch.where(has_any[..., None, None], new[row, source], buffer[row, :, target])


def _length_after(position: Tensor, lengths: Tensor) -> Tensor:
    return torch.maximum(lengths, position.amax(1) + 1)  # [B]


@called_with(KvAppend)
def kv_full_append(given: KvAppend) -> Appended:
    """Adds tokens to a `kv_full` state, in place.

    state: keys `[B, Hkv, capacity, D]`, values `[B, Hkv, capacity, Dv]`; k `[B, T, Hkv*D]`, v `[B, T, Hkv*Dv]` of the
    same dtype; position `[B, T]` int64, per row -1 (padding, not stored) or the next positions from `lengths`; lengths
    `[B]` int64, the tokens each row held before -> `(state, keys [B, Hkv, S, D], values [B, Hkv, S, Dv], key_position
    [B, S])`. Keys and values are views of the buffers cut at the longest row, key_position is -1 beyond a row's own
    length; of a state of float8 they are copies, of k's dtype. `is_static` reads nothing on the host and leaves the
    views whole (S = capacity): what a CUDA graph needs. Raises ValueError beyond the capacity, unless static.
    """
    if is_float8(given.state):
        return append_float8(kv_full_append.of, dequantise, given)
    state, position, is_static = given.state, given.position, given.is_static
    (keys, values), (new_keys, new_values) = state, _by_head(given)
    capacity = keys.shape[2]
    start = None if is_static else _shared_start(position)
    if start is not None:
        size = start + position.shape[1]
        _check_capacity(size, capacity)
        keys[:, :, start:size] = new_keys.transpose(1, 2)
        values[:, :, start:size] = new_values.transpose(1, 2)
        key_position = torch.arange(size, device=keys.device).expand(len(position), size)
        return state, keys[:, :, :size], values[:, :, :size], key_position
    length = _length_after(position, given.lengths)
    size = capacity if is_static else int(length.max())
    _check_capacity(size, capacity)
    _write(keys, new_keys, position, position >= 0)
    _write(values, new_values, position, position >= 0)
    order = torch.arange(size, device=keys.device)
    key_position = torch.where(order < length[:, None], order, -1)
    return state, keys[:, :, :size], values[:, :, :size], key_position


@called_with(KvWindowAppend)
def kv_window_append(given: KvWindowAppend) -> Appended:
    """Adds tokens to a `kv_window` state, in place. Arguments and result are those of `kv_full_append`.

    With one token, keys and values are views of the ring (S = the filled part, or all of it when static). With several,
    they are a copy: the ring as it was, then the new tokens, so that early queries still see keys which later tokens
    overwrite (S = the filled part + T). Only the last tokens that fit are stored. The attention that reads them must
    apply the window: after a rollback some slots hold a token that is gone, always outside the window.
    """
    return _append_to_ring(given, given.window)


def _append_to_ring(given: KvAppend, window: int) -> Appended:
    if is_float8(given.state):
        return append_float8(partial(_append_to_ring, window=window), dequantise, given)
    state, position, lengths, is_static = given.state, given.position, given.lengths, given.is_static
    (keys, values), (new_keys, new_values) = state, _by_head(given)
    ring, tokens = keys.shape[2], position.shape[1]
    if ring < window and not is_static:
        _check_capacity(int(_length_after(position, lengths).max()), ring)
    if tokens == 1:
        _write_ring(state, new_keys, new_values, position, is_static)
        length = _length_after(position, lengths)
        size = ring if is_static else min(ring, int(length.max()))
        return state, keys[:, :, :size], values[:, :, :size], _ring_positions(length, ring)[:, :size]
    size = ring if is_static else min(ring, int(lengths.max()))
    seen_keys, seen_values, key_position = new_keys.transpose(1, 2), new_values.transpose(1, 2), position
    if size > 0:
        seen_keys = torch.cat((keys[:, :, :size], seen_keys), dim=2)
        seen_values = torch.cat((values[:, :, :size], seen_values), dim=2)
        key_position = torch.cat((_ring_positions(lengths, ring)[:, :size], position), dim=1)
    _write_ring(state, new_keys, new_values, position, is_static)
    return state, seen_keys, seen_values, key_position


@called_with(RopeKvAppend)
def rope_kv_full_append(given: RopeKvAppend) -> tuple[KvState, Tensor, Tensor, Tensor, Tensor | None]:
    """`kv_full_append` of keys that `rope_apply` turns first, and q `[B, T, H*D]` turned as they are.

    table `[B, T, R]` float32; without q, the last result is None.
    """
    turned, q = _turned(given)
    return *kv_full_append.of(turned), q


@called_with(RopeKvWindowAppend)
def rope_kv_window_append(given: RopeKvWindowAppend) -> tuple[KvState, Tensor, Tensor, Tensor, Tensor | None]:
    """`kv_window_append` of keys that `rope_apply` turns first, and q `[B, T, H*D]` turned as they are.

    table `[B, T, R]` float32; without q, the last result is None.
    """
    turned, q = _turned(given)
    return *_append_to_ring(turned, given.window), q


def _turned(given: RopeKvAppend) -> tuple[RopeKvAppend, Tensor | None]:
    turn = partial(
        rope_apply, table=given.table, head_dim=given.key_dim, rotary_dim=given.rotary_dim, layout=given.layout
    )
    return changed(given, k=turn(x=given.k)), None if given.q is None else turn(x=given.q)


def _by_head(given: KvAppend) -> tuple[Tensor, Tensor]:
    """New keys `[B, T, Hkv, D]` and values in the cache's dtypes, from which autocast may have taken them."""
    (keys, values), k, v = given.state, given.k, given.v
    new_keys = k.view(*k.shape[:-1], given.heads, given.key_dim).to(keys.dtype)
    return new_keys, v.view(*v.shape[:-1], given.heads, given.value_dim).to(values.dtype)


def cross_kv_append(
    *, state: CrossState, k: Tensor, v: Tensor, position: Tensor, heads: int, key_dim: int, value_dim: int
) -> CrossState:
    """The keys and values that all later calls read, in the place of what the state held: not one token is added later.

    k `[B, S, Hkv*D]`, v `[B, S, Hkv*Dv]`, position `[B, S]` int64, -1 for padding -> keys `[B, Hkv, S, D]`, values
    `[B, Hkv, S, Dv]` and position. S is that of the call, whatever the state's own was.
    """
    del state
    keys = k.view(*k.shape[:-1], heads, key_dim).transpose(1, 2).contiguous()
    values = v.view(*v.shape[:-1], heads, value_dim).transpose(1, 2).contiguous()
    return keys, values, position


def cross_kv_read(*, state: CrossState) -> tuple[CrossState, Tensor, Tensor, Tensor]:
    """What `cross_kv_append` kept -> `(state, keys [B, Hkv, S, D], values [B, Hkv, S, Dv], key_position [B, S])`."""
    keys, values, key_position = state
    return state, keys, values, key_position


def shared_keys(
    *, k: Tensor, v: Tensor, position: Tensor, head_dim: int, v_head_dim: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """A call's own keys and values as attention over a cache reads them, where there is no cache.

    k `[B, T, Hkv*D]`, v `[B, T, Hkv*Dv]`, position `[B, T]` -> keys `[B, Hkv, T, D]`, values `[B, Hkv, T, Dv]` and
    key_position `[B, T]`, all views.
    """
    keys = k.view(*k.shape[:-1], -1, head_dim).transpose(1, 2)
    return keys, v.view(*v.shape[:-1], -1, v_head_dim or head_dim).transpose(1, 2), position


def _check_capacity(size: int, capacity: int) -> None:
    if size > capacity:
        raise ValueError(
            f"the cache holds {capacity} tokens a row, but {size} are needed; make it with a larger max_seq_len"
        )


def _ring_positions(length: Tensor, ring: int) -> Tensor:
    """The position that each slot holds in a row of `length` tokens, -1 where none. length `[B]` -> `[B, ring]`."""
    last = length[:, None] - 1
    return (last - (last - torch.arange(ring, device=length.device)) % ring).clamp(min=-1)


def _write_ring(state: KvState, new_keys: Tensor, new_values: Tensor, position: Tensor, is_static: bool) -> None:
    """Stores the last tokens that fit. new_keys `[B, T, Hkv, D]`, position `[B, T]`."""
    keys, values = state[0], state[1]
    ring, tokens = keys.shape[2], position.shape[1]
    start = None if is_static else _shared_start(position)
    if start is None:
        is_written = (position >= 0) & (position > position.amax(1, keepdim=True) - ring)
        _write(keys, new_keys, position % ring, is_written)
        _write(values, new_values, position % ring, is_written)
        return
    first = max(0, tokens - ring)
    slots = torch.arange(start + first, start + tokens, device=keys.device) % ring
    keys[:, :, slots] = new_keys[:, first:].transpose(1, 2)
    values[:, :, slots] = new_values[:, first:].transpose(1, 2)
