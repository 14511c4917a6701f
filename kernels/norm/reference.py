"""The definitions of the norms. Statistics are taken in float32 (float64 for float64 input)."""

from __future__ import annotations

import torch
from torch import Tensor


def _widened(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _by_head(x: Tensor, head_dim: int | None) -> Tensor:
    """[..., F] -> [..., F/head_dim, head_dim], so that the last axis is what one norm sees."""
    return x if head_dim is None else x.view(*x.shape[:-1], x.shape[-1] // head_dim, head_dim)


def _weight_by_head(weight: Tensor, head_dim: int | None) -> Tensor:
    """[head_dim] or [H * head_dim] -> [1 or H, head_dim]: one weight for all heads, or one each."""
    return weight if head_dim is None else weight.reshape(-1, head_dim)


def rms_norm(
    *, x: Tensor, weight: Tensor | None = None, eps: float, weight_offset: float = 0.0, head_dim: int | None = None
) -> Tensor:
    """`x / sqrt(mean(x^2) + eps) * (weight + weight_offset)` (Zhang and Sennrich 2019, eq. 4).

    x `[..., F]`, weight `[F]` -> `[..., F]` of x's dtype. With `head_dim` each head of x is normalised alone and weight
    is `[head_dim]` (or `[F]`: one per head). The normalised value is rounded to x's dtype before the weight, as in
    transformers' Llama; with `weight_offset` the product is taken in float32 and rounded once, as in Gemma.
    """
    heads = _by_head(_widened(x), head_dim)
    heads = heads * torch.rsqrt(heads.pow(2).mean(-1, keepdim=True) + eps)
    if weight is None:
        return heads.to(x.dtype).reshape(x.shape)
    weight = _weight_by_head(weight, head_dim)
    heads = heads * (_widened(weight) + weight_offset) if weight_offset else heads.to(x.dtype) * weight
    return heads.to(x.dtype).reshape(x.shape)


def layer_norm(
    *, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float, head_dim: int | None = None
) -> Tensor:
    """`(x - mean) / sqrt(var + eps) * weight + bias` (Ba et al. 2016, eq. 4), rounded once, as torch's LayerNorm.

    x `[..., F]`, weight and bias `[F]` -> `[..., F]` of x's dtype. With `head_dim` each head is normalised alone and
    weight and bias are `[head_dim]` (or `[F]`: one per head).
    """
    heads = _by_head(_widened(x), head_dim)
    heads = heads - heads.mean(-1, keepdim=True)
    heads = heads * torch.rsqrt(heads.pow(2).mean(-1, keepdim=True) + eps)
    if weight is not None:
        heads = heads * _widened(_weight_by_head(weight, head_dim))
    if bias is not None:
        heads = heads + _widened(_weight_by_head(bias, head_dim))
    return heads.to(x.dtype).reshape(x.shape)


def add_rms_norm(
    *, delta: Tensor, residual: Tensor, weight: Tensor | None = None, eps: float, weight_offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    """`add` then `rms_norm`, equal to the two bit by bit. All `[..., F]` -> `(out, residual + delta)`."""
    total = residual + delta
    return rms_norm(x=total, weight=weight, eps=eps, weight_offset=weight_offset), total


def add_layer_norm(
    *, delta: Tensor, residual: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float
) -> tuple[Tensor, Tensor]:
    """`add` then `layer_norm`, equal to the two bit by bit. All `[..., F]` -> `(out, residual + delta)`."""
    total = residual + delta
    return layer_norm(x=total, weight=weight, bias=bias, eps=eps), total


def group_norm(
    *,
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    num_groups: int,
    eps: float,
    centre: bool = True,
) -> Tensor:
    """A norm over each of `num_groups` runs of features of each token (Wu and He 2018), rounded once.

    x `[..., F]`, weight and bias `[F]` -> `[..., F]` of x's dtype. Tokens are never mixed. Without `centre` it is an
    RMS norm: the mean stays.
    """
    size = x.shape[-1] // num_groups
    if centre:
        return layer_norm(x=x, weight=weight, bias=bias, eps=eps, head_dim=size)
    groups = _by_head(_widened(x), size)
    groups = (groups * torch.rsqrt(groups.pow(2).mean(-1, keepdim=True) + eps)).reshape(x.shape)
    groups = groups if weight is None else groups * _widened(weight)
    return (groups if bias is None else groups + _widened(bias)).to(x.dtype)


def l2_norm(*, x: Tensor, eps: float = 1e-12, head_dim: int | None = None) -> Tensor:
    """`x / sqrt(sum(x^2) + eps)` over the features, or over each head. x `[..., F]` -> the same shape and dtype."""
    heads = _by_head(_widened(x), head_dim)
    heads = heads * torch.rsqrt(heads.pow(2).sum(-1, keepdim=True) + eps)
    return heads.to(x.dtype).reshape(x.shape)
