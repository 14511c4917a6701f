"""The definitions of ops without weights that treat tokens alone, and of `pool`, which folds them into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

ActivationKind: TypeAlias = Literal[
    "gelu", "gelu_tanh", "gelu_quick", "relu", "relu2", "silu", "sigmoid", "tanh", "softplus", "exp", "identity"
]
ReduceKind: TypeAlias = Literal["sum", "mean", "rms", "max"]
PoolKind: TypeAlias = Literal["first", "last", "mean", "max"]


def add(*, a: Tensor, b: Tensor) -> Tensor:
    """`a + b`, broadcast."""
    return a + b


def mul(*, a: Tensor, b: Tensor) -> Tensor:
    """`a * b`, broadcast."""
    return a * b


def sum_of(*, xs: Sequence[Tensor], scale: float = 1.0) -> Tensor:
    """`(x1 + x2 + …) * scale`, added from the left. xs of one shape and dtype, which the result has."""
    total = xs[0]
    for x in xs[1:]:
        total = total + x
    return total if scale == 1.0 else total * scale


def sub(*, a: Tensor, b: Tensor) -> Tensor:
    """`a - b`, broadcast."""
    return a - b


def div(*, a: Tensor, b: Tensor) -> Tensor:
    """`a / b`, broadcast."""
    return a / b


def lerp(*, a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """`a + (b - a) * weight`; b and weight broadcast to a."""
    return a + (b - a) * weight


def clamp(*, x: Tensor, min: float | None = None, max: float | None = None) -> Tensor:
    """x within the bounds that are given; the shape and dtype of x."""
    return x if min is None and max is None else torch.clamp(x, min=min, max=max)


def reduce(*, x: Tensor, kind: ReduceKind, head_dim: int | None = None, keep: bool = False) -> Tensor:
    """One number per head of `head_dim` features (absent: all), in float32, rounded once.

    x `[..., H*D]` -> `[..., H]`, or with `keep` `[..., H*D]`, where it stands at each feature of its head.
    """
    size = head_dim or x.shape[-1]
    heads = x.to(torch.promote_types(x.dtype, torch.float32)).view(*x.shape[:-1], x.shape[-1] // size, size)
    match kind:
        case "sum":
            number = heads.sum(-1)
        case "mean":
            number = heads.mean(-1)
        case "rms":
            number = heads.square().mean(-1).sqrt()
        case "max":
            number = heads.amax(-1)
        case _:
            raise ValueError(f"no reduction is called {kind!r}")
    return (number[..., None].expand_as(heads).reshape(x.shape) if keep else number).to(x.dtype)


def topk_sparsity(*, x: Tensor, sparsity: float) -> Tensor:
    """`relu(x - (mean + std * z))` with z the normal quantile of `sparsity` (Gemma 3n); sparsity 0 gives x itself.

    x `[..., F]` -> the same shape and dtype. The standard deviation is that of the whole population.
    """
    if sparsity == 0.0:
        return x
    quantile = NormalDist().inv_cdf(sparsity)
    cutoff = x.mean(-1, keepdim=True) + x.std(-1, keepdim=True, correction=0) * quantile
    return functional.relu(x - cutoff)


def scale(*, x: Tensor, factor: float, offset: float = 0.0) -> Tensor:
    """`x * factor + offset`; the shape and dtype of x."""
    return x * factor + offset if offset else x * factor


def softcap(*, x: Tensor, cap: float) -> Tensor:
    """`cap * tanh(x / cap)` (Gemma 2, section 2.3); the shape and dtype of x."""
    return cap * torch.tanh(x / cap)


def activation(*, x: Tensor, kind: ActivationKind) -> Tensor:
    """A nonlinearity, element by element; the shape and dtype of x.

    `gelu` is exact, `gelu_tanh` its tanh form, `gelu_quick` is `x * sigmoid(1.702 x)`, `relu2` is `relu(x)^2`.
    """
    match kind:
        case "gelu":
            return functional.gelu(x)
        case "gelu_tanh":
            return functional.gelu(x, approximate="tanh")
        case "gelu_quick":
            return x * torch.sigmoid(1.702 * x)
        case "relu":
            return functional.relu(x)
        case "relu2":
            return functional.relu(x).square()
        case "silu":
            return functional.silu(x)
        case "sigmoid":
            return torch.sigmoid(x)
        case "tanh":
            return torch.tanh(x)
        case "softplus":
            return functional.softplus(x)
        case "exp":
            return torch.exp(x)
        case "identity":
            return x
    raise ValueError(f"no activation is called {kind!r}")


def gated_activation(*, gate: Tensor, up: Tensor, kind: ActivationKind) -> Tensor:
    """`activation(gate) * up` (Shazeer 2020, eq. 5). Both `[..., F]` -> `[..., F]`."""
    return activation(x=gate, kind=kind) * up


def gated_activation_packed(*, x: Tensor, kind: ActivationKind) -> Tensor:
    """`gated_activation` on `x = concat(gate, up)`. x `[..., 2F]` -> `[..., F]`."""
    gate, up = x.chunk(2, dim=-1)
    return gated_activation(gate=gate, up=up, kind=kind)


def dropout(*, x: Tensor, p: float, training: bool) -> Tensor:
    """Zeroes elements with probability `p` and scales the rest by `1 / (1 - p)`; in inference x itself."""
    return functional.dropout(x, p, training)


def split(*, x: Tensor, sizes: Mapping[str, int] | Sequence[int]) -> tuple[Tensor, ...]:
    """Consecutive runs of features, as views. x `[..., sum(sizes)]` -> one `[..., size]` per size, in order."""
    widths = sizes.values() if isinstance(sizes, Mapping) else sizes
    return torch.split(x, list(widths), dim=-1)


def concat(*, xs: Sequence[Tensor], heads: int = 1) -> Tensor:
    """Features side by side, or those of each of `heads` heads. xs of `[..., F_i]` -> `[..., sum(F_i)]`."""
    if heads == 1:
        return torch.cat(list(xs), dim=-1)
    return torch.cat([x.unflatten(-1, (heads, -1)) for x in xs], dim=-1).flatten(-2)


def select(*, x: Tensor, index: int, axis: int) -> Tensor:
    """One index of an axis, which drops out; negative ones count from the end."""
    return x.select(axis, index)


def identity(*, x: Tensor) -> Tensor:
    """x itself: what a free parameter is to the graph."""
    return x


def zeros_like(*, x: Tensor) -> Tensor:
    """Zeros of x's shape and dtype."""
    return torch.zeros_like(x)


def pool(*, x: Tensor, position: Tensor, kind: PoolKind) -> Tensor:
    """One vector per row of the batch from its tokens; padding (position -1), left or right, takes no part.

    x `[B, T, M]`, position `[B, T]` int64 -> `[B, M]` of x's dtype. `mean` is summed in float32. A row without tokens
    gives zeros.
    """
    if x.shape[1] == 0:
        return x.new_zeros(x.shape[0], x.shape[-1])
    is_token = position >= 0
    has_tokens = is_token.any(1, keepdim=True)
    if kind in ("first", "last"):
        order = torch.arange(1, x.shape[1] + 1, device=x.device)
        weight = order if kind == "last" else order.flip(0)
        index = (is_token * weight).argmax(1)
        pooled = x[torch.arange(x.shape[0], device=x.device), index]
    elif kind == "mean":
        wide = x.to(torch.promote_types(x.dtype, torch.float32)).masked_fill(~is_token[..., None], 0.0)
        pooled = (wide.sum(1) / is_token.sum(1, keepdim=True).clamp(min=1)).to(x.dtype)
    elif kind == "max":
        pooled = x.masked_fill(~is_token[..., None], -torch.inf).amax(1)
    else:
        raise ValueError(f"no pooling is called {kind!r}")
    return pooled.masked_fill(~has_tokens, 0.0)


def sinusoidal(
    *, position: Tensor, features: int, theta: float = 10000.0, layout: Literal["interleaved", "half"] = "interleaved"
) -> Tensor:
    """Sines and cosines of `position / theta^(2i / features)` (Vaswani et al. 2017, section 3.5).

    position `[B, T]` int64 -> `[B, T, features]` float32. `interleaved` is sin, cos, sin, cos, ... as in the paper;
    `half` is all sines, then all cosines. Padding (position -1) reads position 0.
    """
    exponent = torch.arange(0, features, 2, device=position.device, dtype=torch.float32) / features
    angle = position.clamp(min=0)[..., None].float() / theta**exponent  # [B, T, ceil(features / 2)]
    if layout == "interleaved":
        return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)[..., :features]
    return torch.cat((angle.sin(), angle.cos()), dim=-1)[..., :features]


def position_scale(*, x: Tensor, position: Tensor, scale: float, period: int, offset: int = 0) -> Tensor:
    """`x * (1 + scale * log(1 + floor((position + offset) / period)))`: sharper queries far out (Nakanishi 2025).

    x `[B, T, M]`, position `[B, T]` int64 (-1 padding, which counts as 0) -> the shape and dtype of x. The factor and
    the product are float32 (float64 for float64 input).
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    factor = 1 + scale * torch.log1p(torch.floor((position.clamp(min=0) + offset).to(wide) / period))
    return (x * factor[..., None]).to(x.dtype)
