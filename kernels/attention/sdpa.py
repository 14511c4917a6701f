"""Attention on torch's scaled_dot_product_attention, with a mask only where one is needed."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from ..kernel import Request
from ..record import called_with
from .fields import AttendCached, Attention
from .reference import alibi_bias, bias_by_distance, visible_keys
from .shared_rows import shares_keys


def serves(request: Request) -> str | None:
    """None, or the part of the node that torch's operator cannot express."""
    if request.fields.get("softcap") is not None:
        return "scaled_dot_product_attention has no softcap"
    if "sink" in request.shapes:
        return "scaled_dot_product_attention has no attention sink"
    has_bias = bool({"bias", "distance_bias"} & request.shapes.keys()) or bool(request.fields.get("alibi"))
    if has_bias and request.dtype not in ("float32", "float64"):
        return f"its additive mask would be rounded to {request.dtype}"
    return None


def _needs_no_mask(given: AttendCached) -> bool:
    """Every key is seen by every query. A few reductions over small tensors, read on the host."""
    first_key, last_key = (int(p) for p in torch.aminmax(given.key_position))
    first_query, last_query = (int(p) for p in torch.aminmax(given.position))
    is_causal, window, chunk = given.mask == "causal", given.window, given.chunk
    if first_key < 0 or first_query < 0 or (is_causal and last_key > first_query):
        return False
    if chunk is not None and len({p // chunk for p in (first_key, last_key, first_query, last_query)}) > 1:
        return False
    return window is None or (first_key > last_query - window and (is_causal or last_key < first_query + window))


def _is_whole_prefill(given: AttendCached) -> bool:
    """Queries are the keys, in order and without padding: row t sees columns 0 to t."""
    position, tokens, chunk = given.position, given.position.shape[1], given.chunk
    if given.mask != "causal" or given.key_position.shape[1] != tokens:
        return False
    if given.window is not None and given.window < tokens:
        return False
    run = position[:, :1] + torch.arange(tokens, device=position.device)
    is_whole = (position == run) & (given.key_position == run) & (run >= 0)
    if chunk is not None:
        is_whole = is_whole & (run // chunk == run[:, :1] // chunk)
    return bool(is_whole.all())


@called_with(AttendCached)
@shares_keys
def attend_cached(given: AttendCached) -> Tensor:
    """`reference.attend_cached`, without softcap and sink. Raises ValueError when given one.

    On a CUDA device a single-token call never reads a tensor on the host, so that it can be captured in a CUDA graph.
    """
    if given.softcap is not None or given.sink is not None:
        raise ValueError("scaled_dot_product_attention has neither softcap nor sink")
    q, position, key_position = given.q, given.position, given.key_position
    b, tokens = position.shape
    heads = q.view(*q.shape[:-1], -1, given.head_dim).transpose(1, 2)  # [B, H, T, D]
    attend = partial(
        functional.scaled_dot_product_attention,
        heads,
        given.keys,
        given.values,
        dropout_p=given.dropout if given.training else 0.0,
        scale=given.scale,
        enable_gqa=given.keys.shape[1] != heads.shape[1],
    )
    has_bias = given.alibi or given.bias is not None or given.distance_bias is not None
    may_read = not has_bias and (tokens > 1 or not position.is_cuda)
    if may_read and tokens > 1 and _is_whole_prefill(given):
        out = attend(is_causal=True)
    elif may_read and _needs_no_mask(given):
        out = attend()
    else:
        visible = visible_keys(
            position=position, key_position=key_position, mask=given.mask, window=given.window, chunk=given.chunk
        )[:, None]
        is_blind = ~visible.any(-1, keepdim=True)  # [B, 1, T, 1]
        allowed = visible | is_blind
        if has_bias:
            allowed = _added(given, heads.shape[1]).masked_fill(~allowed, -torch.inf)
        out = attend(attn_mask=allowed).masked_fill(is_blind, 0.0)
    return out.transpose(1, 2).reshape(b, tokens, -1)


def _added(given: AttendCached, heads: int) -> Tensor:
    """All that is added to the scores, in q's dtype."""
    q, at = given.q, {"position": given.position, "key_position": given.key_position}
    score = torch.zeros((), dtype=q.dtype, device=q.device) if given.bias is None else given.bias.to(q.dtype)
    if given.distance_bias is not None:
        score = score + bias_by_distance(distance_bias=given.distance_bias, **at)
    if given.alibi:
        score = score + alibi_bias(**at, heads=heads)
    return score.to(q.dtype)


@called_with(Attention)
def attention(given: Attention) -> Tensor:
    """`reference.attention`, without softcap and sink. Raises ValueError when given one."""
    return attend_cached.of(given.cached())
