"""Keys and values as float8_e4m3fn, each head of each token with a float32 scale: half the bytes of bfloat16.

A scale of a whole head or tensor would have to be known before the tokens come, and one that is too small for a later
token would cut it off; rescaling what is there would write the cache anew. One number beside head_dim others costs 3 %
at a head of 128, needs no calibration, and bounds the error of each element x of a head whose largest is m:
|error| <= max(|x| / 16, m / 448 / 1024) + rounding of the scale, half a step of 3 bits of mantissa, or of the smallest
numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from ..record import changed
from .fields import Appended, KvAppend, KvState

LARGEST = 448.0
"""Of float8_e4m3fn."""

Some = TypeVar("Some", bound=KvAppend)


def is_float8(state: KvState) -> bool:
    """Whether a state has scales."""
    return state[0].dtype == torch.float8_e4m3fn


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """x `[..., D]` -> float8_e4m3fn of its shape, and the scale `[...]` float32 by which the largest is 448."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = (wide.abs().amax(-1) / LARGEST).float()
    scale = torch.where(scale > 0, scale, 1.0)
    return (wide / scale[..., None]).to(torch.float8_e4m3fn), scale


def dequantise(x: Tensor, scale: Tensor, at: Tensor, dtype: torch.dtype) -> Tensor:
    """x `[B, Hkv, S, D]` float8_e4m3fn times scale `[B, Hkv, S]`, rounded once; at `[B, S]` are positions, -1 empty."""
    del at
    return (x.to(torch.promote_types(dtype, torch.float32)) * scale[..., None]).to(dtype)


def append_float8(
    append: Callable[[Some], Appended], expand: Callable[[Tensor, Tensor, Tensor, torch.dtype], Tensor], given: Some
) -> Appended:
    """What `append` does with a state of two buffers, for one of float8 and its scales; `expand` is `dequantise`.

    Numbers and scales are moved as they are, by two appends. What is read is of k's dtype, a copy.
    """
    state, k, v = given.state, given.k, given.v
    keys, values, key_scale, value_scale = state[0], state[1], state[2], state[3]
    (k_small, k_scale), (v_small, v_scale) = (
        quantise(x.reshape(*x.shape[:-1], given.heads, size)) for x, size in ((k, given.key_dim), (v, given.value_dim))
    )
    numbers = changed(
        given, state=(_bytes(keys), _bytes(values)), k=_bytes(k_small).flatten(-2), v=_bytes(v_small).flatten(-2)
    )
    _, keys, values, at = append(numbers)
    scales = (key_scale[..., None], value_scale[..., None])
    _, k_scales, v_scales, _ = append(changed(given, state=scales, k=k_scale, v=v_scale, key_dim=1, value_dim=1))
    read = (
        expand(x.view(torch.float8_e4m3fn), scale[..., 0], at, k.dtype)
        for x, scale in ((keys, k_scales), (values, v_scales))
    )
    return state, next(read), next(read), at


def _bytes(x: Tensor) -> Tensor:
    """The same memory as whole numbers, which every operator of torch moves."""
    return x.view(torch.int8)
