"""The definition of `rope`, and its two halves: the table of angles, which all layers may share, and its use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, TypeVar

import torch
from torch import Tensor

from . import frequencies
from .frequencies import RopeScaling

RopeLayout: TypeAlias = Literal["half", "interleaved"]
Known = TypeVar("Known")


def _needed(value: Known | None, name: str, scaling: str) -> Known:
    if value is None:
        raise ValueError(f"rope scaling {scaling!r} needs {name}")
    return value


def rope_law(
    *,
    position: Tensor,
    rotary_dim: int,
    theta: float = 10000.0,
    scaling: RopeScaling = "none",
    factor: float | None = None,
    low_freq_factor: float = 1.0,
    high_freq_factor: float = 4.0,
    original_max_seq_len: int | None = None,
    max_seq_len: int | None = None,
    attention_factor: float | None = None,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
    mscale: float | None = None,
    mscale_all_dim: float | None = None,
    short_factor: Sequence[float] | None = None,
    long_factor: Sequence[float] | None = None,
    rotary_fraction: float = 1.0,
) -> tuple[Tensor, float]:
    """What each pair turns per position, `[R/2]` float32 (`[B, 1, R/2]` where it depends on a row's length), and the
    factor on cosines and sines. The arguments are those of `rope_table`."""
    dims, device, gain = rotary_dim, position.device, 1.0
    match scaling:
        case "none":
            frequency = frequencies.plain(dims, theta, device)
        case "linear":
            frequency = frequencies.plain(dims, theta, device) / _needed(factor, "factor", scaling)
        case "dynamic":
            trained = _needed(original_max_seq_len or max_seq_len, "max_seq_len", scaling)
            frequency = frequencies.dynamic(position, dims, theta, _needed(factor, "factor", scaling), trained)
        case "llama3":
            trained = _needed(original_max_seq_len, "original_max_seq_len", scaling)
            stretch = _needed(factor, "factor", scaling)
            frequency = frequencies.plain(dims, theta, device)
            frequency = frequencies.llama3(frequency, stretch, low_freq_factor, high_freq_factor, trained)
        case "yarn":
            trained = _needed(original_max_seq_len, "original_max_seq_len", scaling)
            stretch = factor if factor is not None else _needed(max_seq_len, "factor or max_seq_len", scaling) / trained
            frequency = frequencies.yarn(dims, theta, stretch, trained, beta_fast, beta_slow, truncate, device)
            gain = frequencies.yarn_attention_factor(stretch, mscale, mscale_all_dim)
        case "longrope":
            trained = _needed(original_max_seq_len, "original_max_seq_len", scaling)
            stretch = factor if factor is not None else _needed(max_seq_len, "factor or max_seq_len", scaling) / trained
            short = _needed(short_factor, "short_factor", scaling)
            frequency = frequencies.longrope(
                position, dims, theta, short, _needed(long_factor, "long_factor", scaling), trained
            )
            gain = frequencies.longrope_attention_factor(stretch, trained)
        case "proportional":
            stretch = 1.0 if factor is None else factor
            frequency = frequencies.proportional(dims, theta, stretch, rotary_fraction, device)
        case _:
            raise ValueError(f"no rope scaling is called {scaling!r}")
    if scaling in ("yarn", "longrope") and attention_factor is not None:
        gain = attention_factor
    return frequency, gain


def rope_table(
    *,
    position: Tensor,
    rotary_dim: int,
    theta: float = 10000.0,
    scaling: RopeScaling = "none",
    factor: float | None = None,
    low_freq_factor: float = 1.0,
    high_freq_factor: float = 4.0,
    original_max_seq_len: int | None = None,
    max_seq_len: int | None = None,
    attention_factor: float | None = None,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
    mscale: float | None = None,
    mscale_all_dim: float | None = None,
    short_factor: Sequence[float] | None = None,
    long_factor: Sequence[float] | None = None,
    rotary_fraction: float = 1.0,
) -> Tensor:
    """Cosines, then sines, of every position's angles.

    position `[B, T]` int64 -> `[B, T, R]` float32 with R = `rotary_dim`: R/2 cosines, then R/2 sines, both times the
    attention factor of `yarn` and `longrope`. Padding (position -1) reads position 0. Frequencies and angles are
    float32. `factor` of `yarn` and `longrope` defaults to `max_seq_len / original_max_seq_len`; `original_max_seq_len`
    of `dynamic` to `max_seq_len`. `rotary_fraction` belongs to `proportional`. Raises ValueError for a scaling whose
    values are missing. Sources: transformers `modeling_rope_utils`; the papers are named in `frequencies`.
    """
    frequency, gain = rope_law(
        position=position,
        rotary_dim=rotary_dim,
        theta=theta,
        scaling=scaling,
        factor=factor,
        low_freq_factor=low_freq_factor,
        high_freq_factor=high_freq_factor,
        original_max_seq_len=original_max_seq_len,
        max_seq_len=max_seq_len,
        attention_factor=attention_factor,
        beta_fast=beta_fast,
        beta_slow=beta_slow,
        truncate=truncate,
        mscale=mscale,
        mscale_all_dim=mscale_all_dim,
        short_factor=short_factor,
        long_factor=long_factor,
        rotary_fraction=rotary_fraction,
    )
    angle = position.clamp(min=0)[..., None].float() * frequency  # [B, T, R/2]
    table = torch.cat((angle.cos(), angle.sin()), dim=-1)
    return table if gain == 1.0 else table * gain


def rope_apply(
    *, x: Tensor, table: Tensor, head_dim: int, rotary_dim: int | None = None, layout: RopeLayout = "half"
) -> Tensor:
    """Turns the first R = `rotary_dim` dims of each head by the angles of `rope_table`.

    x `[B, T, H*D]`, table `[B, T, R]` float32 -> `[B, T, H*D]` of x's dtype, which the table is rounded to first, as
    transformers does. Pairs are `(i, i + R/2)` in layout `half` (GPT-NeoX, Llama), `(2i, 2i + 1)` in `interleaved`
    (GPT-J).
    """
    dims = rotary_dim or head_dim
    heads = x.view(*x.shape[:-1], x.shape[-1] // head_dim, head_dim)  # [B, T, H, D]
    cos, sin = table.to(x.dtype)[:, :, None, :].chunk(2, dim=-1)  # [B, T, 1, R/2]
    turned, rest = heads[..., :dims], heads[..., dims:]
    if layout == "half":
        left, right = turned.chunk(2, dim=-1)
        pieces = [left * cos - right * sin, right * cos + left * sin]
    else:
        left, right = turned[..., 0::2], turned[..., 1::2]
        pieces = [torch.stack((left * cos - right * sin, right * cos + left * sin), dim=-1).flatten(-2)]
    if dims < head_dim:
        pieces.append(rest)
    return torch.cat(pieces, dim=-1).flatten(-2)


def rope(
    *,
    x: Tensor,
    position: Tensor,
    head_dim: int,
    rotary_dim: int | None = None,
    theta: float = 10000.0,
    layout: RopeLayout = "half",
    scaling: RopeScaling = "none",
    factor: float | None = None,
    low_freq_factor: float = 1.0,
    high_freq_factor: float = 4.0,
    original_max_seq_len: int | None = None,
    max_seq_len: int | None = None,
    attention_factor: float | None = None,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
    mscale: float | None = None,
    mscale_all_dim: float | None = None,
    short_factor: Sequence[float] | None = None,
    long_factor: Sequence[float] | None = None,
    rotary_fraction: float = 1.0,
) -> Tensor:
    """Rotary position embedding (Su et al. 2021): `rope_apply` of `rope_table`.

    x `[B, T, H*D]`, position `[B, T]` int64 (-1 padding) -> `[B, T, H*D]` of x's dtype.
    """
    table = rope_table(
        position=position,
        rotary_dim=rotary_dim or head_dim,
        theta=theta,
        scaling=scaling,
        factor=factor,
        low_freq_factor=low_freq_factor,
        high_freq_factor=high_freq_factor,
        original_max_seq_len=original_max_seq_len,
        max_seq_len=max_seq_len,
        attention_factor=attention_factor,
        beta_fast=beta_fast,
        beta_slow=beta_slow,
        truncate=truncate,
        mscale=mscale,
        mscale_all_dim=mscale_all_dim,
        short_factor=short_factor,
        long_factor=long_factor,
        rotary_fraction=rotary_fraction,
    )
    return rope_apply(x=x, table=table, head_dim=head_dim, rotary_dim=rotary_dim, layout=layout)
