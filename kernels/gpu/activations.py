"""The nonlinearities of `activation` as device functions, and their slopes, on float32 blocks."""

# pyright: basic
from __future__ import annotations

import triton
import triton.language as tl

_HALF_ROOT = tl.constexpr(0.7071067811865476)
_DENSITY = tl.constexpr(0.3989422804014327)
_TANH_3, _TANH_5 = tl.constexpr(-1 / 3), tl.constexpr(2 / 15)
_TANH_7, _TANH_9 = tl.constexpr(-17 / 315), tl.constexpr(62 / 2835)
_TANH_SCALE = tl.constexpr(2 * 0.7978845608028654)
_TANH_CUBE = tl.constexpr(0.044715)
_SLOPE_CUBE = tl.constexpr(3 * 0.044715)


@triton.jit
def tanh(x):
    """Block float32 -> the same; a series near 0, so that small values keep their digits too."""
    square = x * x
    small = x * (1.0 + square * (_TANH_3 + square * (_TANH_5 + square * (_TANH_7 + square * _TANH_9))))
    fall = tl.exp(-2.0 * tl.abs(x))
    large = (1.0 - fall) / (1.0 + fall)
    return tl.where(square < 0.09, small, tl.where(x < 0.0, -large, large))


@triton.jit
def softplus(x):
    """`log(1 + exp(x))`, without overflow; where `1 + exp(x)` rounds, the logarithm is corrected (Kahan)."""
    fall = tl.exp(-tl.abs(x))
    rounded = 1.0 + fall
    share = tl.where(rounded == 1.0, 1.0, fall / tl.where(rounded == 1.0, 1.0, rounded - 1.0))
    return tl.maximum(x, 0.0) + tl.where(rounded == 1.0, fall, tl.log(rounded) * share)


@triton.jit
def activate(x, KIND: tl.constexpr):
    """Block float32 -> `activation(x)`; KIND is one of the names of `activation`."""
    if KIND == "silu":
        y = x * tl.sigmoid(x)
    elif KIND == "gelu":
        y = 0.5 * x * (1.0 + tl.erf(x * _HALF_ROOT))
    elif KIND == "gelu_tanh":
        y = x * tl.sigmoid((x + x * x * x * _TANH_CUBE) * _TANH_SCALE)
    elif KIND == "gelu_quick":
        y = x * tl.sigmoid(1.702 * x)
    elif KIND == "relu":
        y = tl.maximum(x, 0.0)
    elif KIND == "relu2":
        y = tl.maximum(x, 0.0) * tl.maximum(x, 0.0)
    elif KIND == "sigmoid":
        y = tl.sigmoid(x)
    elif KIND == "tanh":
        y = tanh(x)
    elif KIND == "softplus":
        y = softplus(x)
    elif KIND == "exp":
        y = tl.exp(x)
    else:
        tl.static_assert(KIND == "identity", "no such activation")
        y = x
    return y


@triton.jit
def slope(x, KIND: tl.constexpr):
    """Block float32 -> the derivative of `activate` at x."""
    if KIND == "silu":
        share = tl.sigmoid(x)
        y = share * (1.0 + x * (1.0 - share))
    elif KIND == "gelu":
        y = 0.5 * (1.0 + tl.erf(x * _HALF_ROOT)) + x * _DENSITY * tl.exp(-0.5 * x * x)
    elif KIND == "gelu_tanh":
        share = tl.sigmoid((x + x * x * x * _TANH_CUBE) * _TANH_SCALE)
        inner = (1.0 + x * x * _SLOPE_CUBE) * _TANH_SCALE
        y = share + x * share * (1.0 - share) * inner
    elif KIND == "gelu_quick":
        share = tl.sigmoid(1.702 * x)
        y = share * (1.0 + 1.702 * x * (1.0 - share))
    elif KIND == "relu":
        y = tl.where(x > 0.0, 1.0, 0.0)
    elif KIND == "relu2":
        y = 2.0 * tl.maximum(x, 0.0)
    elif KIND == "sigmoid":
        share = tl.sigmoid(x)
        y = share * (1.0 - share)
    elif KIND == "tanh":
        share = tanh(x)
        y = 1.0 - share * share
    elif KIND == "softplus":
        y = tl.sigmoid(x)
    elif KIND == "exp":
        y = tl.exp(x)
    else:
        tl.static_assert(KIND == "identity", "no such activation")
        y = tl.full(x.shape, 1.0, tl.float32)
    return y
