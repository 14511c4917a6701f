"""The definition of softmax attention, over a call's own tokens (`attention`), over a cache (`attend_cached`), and with
the cache's append before it (`append_attend`).

Which key a query sees depends on the two positions only, never on where a token lies in the batch: padding on the left
or on the right, ragged rows and a ring buffer need no other rule.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..cache import reference as cache
from ..cache.fields import KvAppend, KvState
from ..norm.reference import rms_norm
from ..record import called_with, shared
from ..rope.reference import rope_apply
from .fields import AppendAttend, AttendCached, Attention, MaskKind, MaskPlan
from .shared_rows import shares_keys


def alibi_slopes(*, heads: int, device: torch.device | None = None) -> Tensor:
    """The slope of each head -> `[H]` float32 (Press et al. 2021, section 3; any head count)."""

    def geometric(count: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / count) for i in range(count)]

    power = 2 ** math.floor(math.log2(heads))
    slopes = geometric(power) + geometric(2 * power)[0::2][: heads - power]
    return torch.tensor(slopes, dtype=torch.float32, device=device)


def visible_keys(
    *,
    position: Tensor,
    key_position: Tensor,
    mask: MaskKind,
    window: int | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Which keys each query sees. position `[B, T]`, key_position `[B, S]`, both int64 -> `[B, T, S]` bool.

    Position -1 marks padding and empty slots: such a key is never seen and such a query sees nothing. `causal` sees
    keys at or before itself; with a window only those with `query - key < window`, itself counted. `bidirectional` sees
    all; with a window those with `|query - key| < window`. With a chunk, either sees only keys of the query's own run
    of `chunk` positions, counted from position 0 (Llama 4).
    """
    query, key = position[:, :, None], key_position[:, None, :]
    visible = (query >= 0) & (key >= 0)
    if mask == "causal":
        visible = visible & (key <= query)
    if window is not None:
        visible = visible & (key > query - window)
        if mask == "bidirectional":
            visible = visible & (key < query + window)
    if chunk is not None:
        visible = visible & (key // chunk == query // chunk)
    return visible


def alibi_bias(*, position: Tensor, key_position: Tensor, heads: int) -> Tensor:
    """`-slope * |query - key|` -> `[B, H, T, S]` float32."""
    distance = (position[:, :, None] - key_position[:, None, :]).abs()
    return -alibi_slopes(heads=heads, device=position.device)[:, None, None] * distance[:, None]


def relative_bias(*, weight: Tensor, max_distance: int = 128, bidirectional: bool = False) -> Tensor:
    """A bias for each distance `key - query` from -max_distance to max_distance (Raffel et al. 2020, section 2.1).

    weight `[buckets, H]` -> `[H, 2 * max_distance + 1]`. Half of the buckets hold one distance each, the others ranges
    that grow logarithmically up to max_distance. Causal: all buckets are for earlier keys, later ones count as distance
    0. Bidirectional: half of the buckets are for later keys.
    """
    distance = torch.arange(-max_distance, max_distance + 1, device=weight.device)
    buckets = weight.shape[0] // 2 if bidirectional else weight.shape[0]
    first = (distance > 0) * buckets if bidirectional else torch.zeros_like(distance)
    length = distance.abs() if bidirectional else (-distance).clamp(min=0)
    exact = buckets // 2
    ratio = torch.log(length.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
    return weight[first + torch.where(length < exact, length, far)].T


def bias_by_distance(*, distance_bias: Tensor, position: Tensor, key_position: Tensor) -> Tensor:
    """`relative_bias` at each pair: column R + min(max(key - query, -R), R).

    distance_bias `[H, 2 * R + 1]`, position `[B, T]` and key_position `[B, S]` int64 -> `[B, H, T, S]`.
    """
    reach = distance_bias.shape[1] // 2
    distance = key_position[:, None, :] - position[:, :, None]  # [B, T, S]
    return distance_bias[:, distance.clamp(-reach, reach) + reach].transpose(0, 1)


@called_with(AttendCached)
def attention_scores(given: AttendCached) -> Tensor:
    """What attention takes the softmax of, before any mask: `[B, H, T, S]` of at least float32."""
    q, keys, head_dim = given.q, given.keys, given.head_dim
    at = {"position": given.position, "key_position": given.key_position}
    b, t, hkv, s = q.shape[0], q.shape[1], keys.shape[1], keys.shape[2]
    wide = torch.promote_types(q.dtype, torch.float32)
    heads = q.shape[-1] // head_dim
    grouped = q.view(b, t, hkv, heads // hkv, head_dim).permute(0, 2, 3, 1, 4)  # [B, Hkv, H/Hkv, T, D]
    rows = grouped.reshape(b, hkv, heads // hkv * t, head_dim).to(wide)
    scores = rows @ keys.to(wide).transpose(-1, -2)  # [B, Hkv, H/Hkv * T, S]
    scores = scores.view(b, heads, t, s) * (head_dim**-0.5 if given.scale is None else given.scale)
    if given.softcap is not None:
        scores = given.softcap * torch.tanh(scores / given.softcap)
    if given.alibi:
        scores = scores + alibi_bias(**at, heads=heads).to(wide)
    if given.bias is not None:
        scores = scores + given.bias.to(wide)
    if given.distance_bias is not None:
        scores = scores + bias_by_distance(distance_bias=given.distance_bias.to(wide), **at)
    return scores


@called_with(AttendCached)
def attention_weights(given: AttendCached) -> Tensor:
    """What attention weighs values by, `[B, H, T, S]` of at least float32: 0 where a query sees no key."""
    scores = attention_scores.of(given)  # [B, H, T, S]
    (b, heads, t, s), wide = scores.shape, scores.dtype
    visible = visible_keys(
        position=given.position,
        key_position=given.key_position,
        mask=given.mask,
        window=given.window,
        chunk=given.chunk,
    )[:, None]
    scores = scores.masked_fill(~visible, torch.finfo(wide).min)
    if given.sink is not None:
        scores = torch.cat((scores, given.sink.to(wide)[:, None, None].expand(b, heads, t, 1)), dim=-1)
    return scores.softmax(-1)[..., :s].masked_fill(~visible, 0.0)


def weighted_values(*, weights: Tensor, values: Tensor) -> Tensor:
    """Weights `[B, H, T, S]` and values `[B, Hkv, S, Dv]` -> `[B, T, H*Dv]` of the weights' dtype."""
    (b, heads, t, s), (_, hkv, _, size) = weights.shape, values.shape
    out = weights.reshape(b, hkv, heads // hkv * t, s) @ values.to(weights.dtype)  # [B, Hkv, H/Hkv * T, Dv]
    return out.view(b, heads, t, size).transpose(1, 2).reshape(b, t, heads * size)


@called_with(AttendCached)
@shares_keys
def attend_cached(given: AttendCached) -> Tensor:
    """Attention of a call's queries over cached keys (Vaswani et al. 2017, eq. 1; grouped heads: Ainslie et al. 2023).

    q `[B, T, H*D]`, keys `[B, Hkv, S, D]`, values `[B, Hkv, S, Dv]` of one float dtype; key_position `[B, S]` (-1
    empty) and position `[B, T]` (-1 padding) int64 -> `[B, T, H*Dv]` of q's dtype. Scores, softmax and sums are float32
    (float64 for float64 input). A query that sees no key gives zeros. What lies in an unseen slot must be finite.
    """
    weights = functional.dropout(attention_weights.of(given), given.dropout, given.training)
    return weighted_values(weights=weights, values=given.values).to(given.q.dtype)


@called_with(Attention)
def attention(given: Attention) -> Tensor:
    """Attention of a call's tokens over each other: `attend_cached` with the call's own keys.

    q `[B, T, H*D]`, k `[B, S, Hkv*D]`, v `[B, S, Hkv*Dv]`, position `[B, T]` and key_position `[B, S]` int64 (-1
    padding; absent: the keys are of the same tokens, S = T) -> `[B, T, H*Dv]`.
    """
    return attend_cached.of(given.cached())


@called_with(AppendAttend)
def append_attend(given: AppendAttend) -> tuple[Tensor, KvState]:
    """Adds tokens to a cache, in place, and attends to all that it then holds, causally.

    q `[B, T, H*D]`, k `[B, T, Hkv*D]`, v `[B, T, Hkv*Dv]`; state, position, lengths and sizes are those of
    `kv_full_append`, or with `ring` of `kv_window_append` for a window of that size. With weights `[D]` the heads of q
    and of k are normed first (`rms_norm`, both or neither), with `table` both are turned then (`rope_apply`) -> out
    `[B, T, H*Dv]` and the state.
    """
    q, k, head_dim = given.q, given.k, given.key_dim
    if given.q_norm_weight is not None and given.k_norm_weight is not None:
        normed = partial(rms_norm, eps=given.norm_eps, weight_offset=given.norm_offset, head_dim=head_dim)
        q, k = normed(x=q, weight=given.q_norm_weight), normed(x=k, weight=given.k_norm_weight)
    if given.table is not None:
        turned = partial(
            rope_apply, table=given.table, head_dim=head_dim, rotary_dim=given.rotary_dim, layout=given.layout
        )
        q, k = turned(x=q), turned(x=k)
    append = cache.kv_full_append if given.ring is None else partial(cache.kv_window_append, window=given.ring)
    own: dict[str, Any] = {**shared(given, KvAppend), "k": k}
    state, keys, values, at = append(**own)
    return attend_cached.of(given.attending(q, keys, values, at)), state


GRANULE = 16
"""Columns of which a plan says one thing, and its smallest blocks of rows."""
LEVELS = 4
"""Sizes of the blocks of rows that it knows, each twice the one before: a kernel reads those of its own size."""
RANGES = 5
"""Numbers of a plan for a block of rows: the first granule of columns that is seen, the one after the last, the same of
those seen as a whole, and, of a ring, how many of the tokens before the call are seen, else -1."""
NOWHERE = 2**31 - 1
"""The first position of a block that is padding."""


@called_with(MaskPlan)
def mask_plan(given: MaskPlan) -> Tensor:
    """For each block of rows the granules of columns that it meets -> `[B, R, RANGES]` int32, the smallest blocks
    first: R is the sum of `ceil(T / size)` over all sizes.

    A granule of columns outside the first range holds no pair that sees each other, one inside the second only such
    pairs (but for padded queries); a block of padding meets none. What a cache keeps is told by the positions of
    queries alone. Columns of a ring are the call's tokens: its slots come before them. `[B, 0, RANGES]` where none
    `can_be_made`.
    """
    if not given.can_be_made:
        return given.position.new_empty((given.position.shape[0], 0, RANGES), dtype=torch.int32)
    return torch.cat([_plan_of_blocks(given, GRANULE * 2**level) for level in range(LEVELS)], dim=1)


def _plan_of_blocks(given: MaskPlan, size: int) -> Tensor:
    columns = given.position if given.key_position is None else given.key_position
    rows, columns = (columns, given.position) if given.by_keys else (given.position, columns)
    first, last, _ = _spans(rows, size, -(-rows.shape[1] // size))
    before = torch.full_like(last, -1)
    if given.keys == "cache":
        ranges = _of_cache(given, first, last)
    else:
        spans = _spans(columns, GRANULE, max(1, -(-columns.shape[1] // GRANULE)))
        ranges = _ranges(*_seen_granules(given, (first, last), spans))
    if given.lengths is not None and given.keys == "ring":
        before = (given.lengths[:, None] - _lowest(given, first)).clamp(min=0)
    plan = torch.stack([x.masked_fill(last < 0, 0) for x in ranges] + [before.masked_fill(last < 0, -1)], -1)
    return plan.int()


def _spans(position: Tensor, size: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each of `count` blocks the first and the last position, and whether none is padding."""
    padded = functional.pad(position, (0, count * size - position.shape[1]), value=-1)
    blocks = padded.view(position.shape[0], count, size)
    is_real = blocks >= 0
    return torch.where(is_real, blocks, NOWHERE).amin(-1), blocks.amax(-1), is_real.all(-1)


def _lowest(given: MaskPlan, position: Tensor) -> Tensor:
    """The lowest position that a query at this one sees."""
    lowest = torch.zeros_like(position)
    if given.window is not None:
        lowest = torch.maximum(lowest, position - given.window + 1)
    return lowest if given.chunk is None else torch.maximum(lowest, position // given.chunk * given.chunk)


def _of_cache(given: MaskPlan, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The ranges where slot p holds position p; the mask is causal."""
    end = last // GRANULE + 1
    start, stop = -(-_lowest(given, last) // GRANULE), (first + 1) // GRANULE
    has_whole = start < stop
    return _lowest(given, first) // GRANULE, end, torch.where(has_whole, start, end), torch.where(has_whole, stop, end)


def _ranges(seen: Tensor, whole: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the granules that are seen the first and the one after the last, and of the first run of whole ones."""
    count = seen.shape[-1]
    order = torch.arange(count, device=seen.device)
    end = torch.where(seen, order + 1, 0).amax(-1)
    begin = torch.minimum(torch.where(seen, order, count).amin(-1), end)
    start = torch.minimum(torch.where(whole, order, count).amin(-1), end)
    is_after = (order >= start[..., None]) & ~whole
    return begin, end, start, torch.minimum(torch.where(is_after, order, count).amin(-1), end)


def _seen_granules(
    given: MaskPlan, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Which rows and columns meet, in part and as a whole: two of `[B, rows, columns]` bool."""
    row, column = [x[:, :, None] for x in rows], [x[:, None, :] for x in columns]
    (q_first, q_last), (k_first, k_last) = (column[:2], row) if given.by_keys else (row, column[:2])
    seen = (row[1] >= 0) & (column[1] >= 0)
    # A key that is padding must be masked. A query that is padding weighs nothing.
    whole = seen if given.by_keys else seen & column[2]
    if given.mask == "causal":
        seen, whole = seen & (k_first <= q_last), whole & (k_last <= q_first)
    if given.window is not None:
        seen, whole = seen & (q_first - k_last < given.window), whole & (q_last - k_first < given.window)
        if given.mask == "bidirectional":
            seen, whole = seen & (k_first - q_last < given.window), whole & (k_last - q_first < given.window)
    if given.chunk is not None:
        (a, b), (c, d) = ([x // given.chunk for x in pair] for pair in ((q_first, q_last), (k_first, k_last)))
        seen, whole = seen & (c <= b) & (a <= d), whole & (c == b) & (a == d)
    return seen, seen & whole
