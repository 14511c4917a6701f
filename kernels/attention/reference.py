"""The definition of softmax attention, over a call's own tokens (`attention`), over a cache (`attend_cached`), and with
the cache's append before it (`append_attend`).

Which key a query sees depends on the two positions only, never on where a token lies in the batch: padding on the left
or on the right, ragged rows and a ring buffer need no other rule.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from ..cache import reference as cache
from ..cache.reference import KvState
from ..norm.reference import rms_norm
from ..rope.fields import RopeLayout
from ..rope.reference import rope_apply
from .shared_rows import shares_keys

MaskKind: TypeAlias = Literal["causal", "bidirectional"]


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


@shares_keys
def attend_cached(
    *,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    key_position: Tensor,
    position: Tensor,
    head_dim: int,
    v_head_dim: int | None = None,
    mask: MaskKind = "causal",
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    bias: Tensor | None = None,
    distance_bias: Tensor | None = None,
    sink: Tensor | None = None,
) -> Tensor:
    """Attention of a call's queries over cached keys (Vaswani et al. 2017, eq. 1; grouped heads: Ainslie et al. 2023).

    q `[B, T, H*D]`, keys `[B, Hkv, S, D]`, values `[B, Hkv, S, Dv]` of one float dtype; key_position `[B, S]` (-1
    empty) and position `[B, T]` (-1 padding) int64; bias `[1 or H, T, S]` is added to the scores, and so is
    distance_bias `[H, 2*R + 1]` by `key - query` (`bias_by_distance`); sink `[H]` is one more logit per head whose
    value is zero (gpt-oss) -> `[B, T, H*Dv]` of q's dtype. `scale` defaults to `1 / sqrt(D)`;
    `softcap` bends the scaled scores (Gemma 2); ALiBi adds `-slope * |query - key|`. Scores, softmax and sums are
    float32 (float64 for float64 input). A query that sees no key gives zeros. What lies in an unseen slot must be
    finite.
    """
    b, t, hkv, s = q.shape[0], q.shape[1], keys.shape[1], keys.shape[2]
    wide = torch.promote_types(q.dtype, torch.float32)
    heads = q.shape[-1] // head_dim
    grouped = q.view(b, t, hkv, heads // hkv, head_dim).permute(0, 2, 3, 1, 4)  # [B, Hkv, H/Hkv, T, D]
    rows = grouped.reshape(b, hkv, heads // hkv * t, head_dim).to(wide)
    scores = rows @ keys.to(wide).transpose(-1, -2)  # [B, Hkv, H/Hkv * T, S]
    scores = scores.view(b, heads, t, s) * (head_dim**-0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if alibi:
        scores = scores + alibi_bias(position=position, key_position=key_position, heads=heads).to(wide)
    if bias is not None:
        scores = scores + bias.to(wide)
    if distance_bias is not None:
        scores = scores + bias_by_distance(
            distance_bias=distance_bias.to(wide), position=position, key_position=key_position
        )
    visible = visible_keys(position=position, key_position=key_position, mask=mask, window=window, chunk=chunk)[:, None]
    scores = scores.masked_fill(~visible, torch.finfo(wide).min)
    if sink is not None:
        scores = torch.cat((scores, sink.to(wide)[:, None, None].expand(b, heads, t, 1)), dim=-1)
    weights = scores.softmax(-1)[..., :s].masked_fill(~visible, 0.0)
    weights = functional.dropout(weights, dropout, training)
    out = weights.view(b, hkv, heads // hkv * t, s) @ values.to(wide)  # [B, Hkv, H/Hkv * T, Dv]
    size = values.shape[-1]
    return out.view(b, heads, t, size).transpose(1, 2).reshape(b, t, heads * size).to(q.dtype)


def attention(
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: Tensor,
    key_position: Tensor | None = None,
    head_dim: int,
    v_head_dim: int | None = None,
    mask: MaskKind = "causal",
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    bias: Tensor | None = None,
    distance_bias: Tensor | None = None,
    sink: Tensor | None = None,
) -> Tensor:
    """Attention of a call's tokens over each other: `attend_cached` with the call's own keys.

    q `[B, T, H*D]`, k `[B, S, Hkv*D]`, v `[B, S, Hkv*Dv]`, position `[B, T]` and key_position `[B, S]` int64 (-1
    padding; absent: the keys are of the same tokens, S = T) -> `[B, T, H*Dv]`. The other arguments are those of
    `attend_cached`.
    """
    return attend_cached(
        q=q,
        keys=k.view(*k.shape[:-1], k.shape[-1] // head_dim, head_dim).transpose(1, 2),
        values=v.view(*v.shape[:-1], k.shape[-1] // head_dim, v_head_dim or head_dim).transpose(1, 2),
        key_position=position if key_position is None else key_position,
        position=position,
        head_dim=head_dim,
        v_head_dim=v_head_dim,
        mask=mask,
        window=window,
        chunk=chunk,
        scale=scale,
        softcap=softcap,
        alibi=alibi,
        dropout=dropout,
        training=training,
        bias=bias,
        distance_bias=distance_bias,
        sink=sink,
    )


def append_attend(
    *,
    state: KvState,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: Tensor,
    lengths: Tensor,
    heads: int,
    key_dim: int,
    value_dim: int,
    ring: int | None = None,
    table: Tensor | None = None,
    rotary_dim: int | None = None,
    layout: RopeLayout = "half",
    q_norm_weight: Tensor | None = None,
    k_norm_weight: Tensor | None = None,
    norm_eps: float = 0.0,
    norm_offset: float = 0.0,
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: bool = False,
    distance_bias: Tensor | None = None,
    sink: Tensor | None = None,
    is_static: bool = False,
) -> tuple[Tensor, KvState]:
    """Adds tokens to a cache, in place, and attends to all that it then holds, causally.

    q `[B, T, H*D]`, k `[B, T, Hkv*D]`, v `[B, T, Hkv*Dv]`; state, position, lengths and sizes are those of
    `kv_full_append`, or with `ring` of `kv_window_append` for a window of that size. With weights `[D]` the heads of q
    and of k are normed first (`rms_norm`, both or neither), with `table` both are turned then (`rope_apply`). The other
    arguments are those of `attend_cached` -> out `[B, T, H*Dv]` and the state.
    """
    if q_norm_weight is not None and k_norm_weight is not None:
        q = rms_norm(x=q, weight=q_norm_weight, eps=norm_eps, weight_offset=norm_offset, head_dim=key_dim)
        k = rms_norm(x=k, weight=k_norm_weight, eps=norm_eps, weight_offset=norm_offset, head_dim=key_dim)
    if table is not None:
        q, k = (rope_apply(x=x, table=table, head_dim=key_dim, rotary_dim=rotary_dim, layout=layout) for x in (q, k))
    append = cache.kv_full_append if ring is None else partial(cache.kv_window_append, window=ring)
    state, keys, values, at = append(
        state=state,
        k=k,
        v=v,
        position=position,
        lengths=lengths,
        heads=heads,
        key_dim=key_dim,
        value_dim=value_dim,
        is_static=is_static,
    )
    out = attend_cached(
        q=q,
        keys=keys,
        values=values,
        key_position=at,
        position=position,
        head_dim=key_dim,
        v_head_dim=value_dim,
        window=window,
        chunk=chunk,
        scale=scale,
        softcap=softcap,
        alibi=alibi,
        distance_bias=distance_bias,
        sink=sink,
    )
    return out, state
