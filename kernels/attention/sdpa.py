"""Attention on torch's scaled_dot_product_attention, with a mask only where one is needed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..kernel import Request
from .reference import MaskKind, alibi_bias, bias_by_distance, visible_keys
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


def _needs_no_mask(
    position: Tensor, key_position: Tensor, mask: MaskKind, window: int | None, chunk: int | None
) -> bool:
    """Every key is seen by every query. A few reductions over small tensors, read on the host."""
    first_key, last_key = torch.aminmax(key_position)
    first_query, last_query = torch.aminmax(position)
    if int(first_key) < 0 or int(first_query) < 0:
        return False
    if mask == "causal" and int(last_key) > int(first_query):
        return False
    if chunk is not None and len({int(p) // chunk for p in (first_key, last_key, first_query, last_query)}) > 1:
        return False
    return window is None or (
        int(first_key) > int(last_query) - window and (mask == "causal" or int(last_key) < int(first_query) + window)
    )


def _is_whole_prefill(position: Tensor, key_position: Tensor, window: int | None, chunk: int | None) -> bool:
    """Queries are the keys, in order and without padding: row t sees columns 0 to t."""
    tokens = position.shape[1]
    if key_position.shape[1] != tokens or (window is not None and window < tokens):
        return False
    run = position[:, :1] + torch.arange(tokens, device=position.device)
    is_whole = (position == run) & (key_position == run) & (run >= 0)
    if chunk is not None:
        is_whole = is_whole & (run // chunk == run[:, :1] // chunk)
    return bool(is_whole.all())


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
    """`reference.attend_cached`, without softcap and sink. Raises ValueError when given one.

    On a CUDA device a single-token call never reads a tensor on the host, so that it can be captured in a CUDA graph.
    """
    if softcap is not None or sink is not None:
        raise ValueError("scaled_dot_product_attention has neither softcap nor sink")
    b, tokens = position.shape
    heads = q.view(*q.shape[:-1], -1, head_dim).transpose(1, 2)  # [B, H, T, D]
    has_bias = alibi or bias is not None or distance_bias is not None
    may_read = not has_bias and (tokens > 1 or not position.is_cuda)
    drop = dropout if training else 0.0
    is_grouped = keys.shape[1] != heads.shape[1]
    if may_read and mask == "causal" and tokens > 1 and _is_whole_prefill(position, key_position, window, chunk):
        out = functional.scaled_dot_product_attention(
            heads, keys, values, dropout_p=drop, is_causal=True, scale=scale, enable_gqa=is_grouped
        )
    elif may_read and _needs_no_mask(position, key_position, mask, window, chunk):
        out = functional.scaled_dot_product_attention(
            heads, keys, values, dropout_p=drop, scale=scale, enable_gqa=is_grouped
        )
    else:
        visible = visible_keys(position=position, key_position=key_position, mask=mask, window=window, chunk=chunk)[
            :, None
        ]
        is_blind = ~visible.any(-1, keepdim=True)  # [B, 1, T, 1]
        allowed = visible | is_blind
        if has_bias:
            score = torch.zeros((), dtype=q.dtype, device=q.device) if bias is None else bias.to(q.dtype)
            if distance_bias is not None:
                score = score + bias_by_distance(
                    distance_bias=distance_bias, position=position, key_position=key_position
                )
            if alibi:
                score = score + alibi_bias(position=position, key_position=key_position, heads=heads.shape[1])
            allowed = score.to(q.dtype).masked_fill(~allowed, -torch.inf)
        out = functional.scaled_dot_product_attention(
            heads, keys, values, attn_mask=allowed, dropout_p=drop, scale=scale, enable_gqa=is_grouped
        ).masked_fill(is_blind, 0.0)
    return out.transpose(1, 2).reshape(b, tokens, -1)


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
    """`reference.attention`, without softcap and sink. Raises ValueError when given one."""
    return attend_cached(
        q=q,
        keys=k.view(*k.shape[:-1], -1, head_dim).transpose(1, 2),
        values=v.view(*v.shape[:-1], -1, v_head_dim or head_dim).transpose(1, 2),
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
