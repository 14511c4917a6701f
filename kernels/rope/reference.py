"""The definition of `rope`, and its two halves: the table of angles, which all layers may share, and its use."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from ..record import called_with
from . import frequencies
from .fields import Rope, RopeLaw, RopeLayout, RopeTable

Known = TypeVar("Known")


def _needed(value: Known | None, name: str, scaling: str) -> Known:
    if value is None:
        raise ValueError(f"rope scaling {scaling!r} needs {name}")
    return value


@called_with(RopeTable)
def rope_law(given: RopeTable) -> tuple[Tensor, float]:
    """What each pair turns per position, `[R/2]` float32 (`[B, 1, R/2]` where it depends on a row's length), and the
    factor on cosines and sines. The arguments are those of `rope_table`."""
    dims, theta, scaling, device, gain = given.rotary_dim, given.theta, given.scaling, given.position.device, 1.0
    match scaling:
        case "none":
            frequency = frequencies.plain(dims, theta, device)
        case "linear":
            frequency = frequencies.plain(dims, theta, device) / _needed(given.factor, "factor", scaling)
        case "dynamic":
            trained = _needed(given.original_max_seq_len or given.max_seq_len, "max_seq_len", scaling)
            frequency = frequencies.dynamic(
                given.position, dims, theta, _needed(given.factor, "factor", scaling), trained
            )
        case "llama3":
            trained = _needed(given.original_max_seq_len, "original_max_seq_len", scaling)
            stretch = _needed(given.factor, "factor", scaling)
            frequency = frequencies.plain(dims, theta, device)
            frequency = frequencies.llama3(frequency, stretch, given.low_freq_factor, given.high_freq_factor, trained)
        case "yarn":
            trained, stretch = _stretch(given)
            frequency = frequencies.yarn(
                dims, theta, stretch, trained, given.beta_fast, given.beta_slow, given.truncate, device
            )
            gain = frequencies.yarn_attention_factor(stretch, given.mscale, given.mscale_all_dim)
        case "longrope":
            trained, stretch = _stretch(given)
            short = _needed(given.short_factor, "short_factor", scaling)
            long = _needed(given.long_factor, "long_factor", scaling)
            frequency = frequencies.longrope(given.position, dims, theta, short, long, trained)
            gain = frequencies.longrope_attention_factor(stretch, trained)
        case "proportional":
            stretch = 1.0 if given.factor is None else given.factor
            frequency = frequencies.proportional(dims, theta, stretch, given.rotary_fraction, device)
        case _:
            raise ValueError(f"no rope scaling is called {scaling!r}")
    if scaling in ("yarn", "longrope") and given.attention_factor is not None:
        gain = given.attention_factor
    return frequency, gain


def _stretch(law: RopeLaw) -> tuple[int, float]:
    """The context that a model was trained for, and how many times longer the new one is."""
    trained = _needed(law.original_max_seq_len, "original_max_seq_len", law.scaling)
    if law.factor is not None:
        return trained, law.factor
    return trained, _needed(law.max_seq_len, "factor or max_seq_len", law.scaling) / trained


@called_with(RopeTable)
def rope_table(given: RopeTable) -> Tensor:
    """Cosines, then sines, of every position's angles.

    position `[B, T]` int64 -> `[B, T, R]` float32 with R = `rotary_dim`: R/2 cosines, then R/2 sines, both times the
    attention factor of `yarn` and `longrope`. Padding (position -1) reads position 0. Frequencies and angles are
    float32. `factor` of `yarn` and `longrope` defaults to `max_seq_len / original_max_seq_len`; `original_max_seq_len`
    of `dynamic` to `max_seq_len`. `rotary_fraction` belongs to `proportional`. Raises ValueError for a scaling whose
    values are missing. Sources: transformers `modeling_rope_utils`; the papers are named in `frequencies`.
    """
    frequency, gain = rope_law.of(given)
    angle = given.position.clamp(min=0)[..., None].float() * frequency  # [B, T, R/2]
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


@called_with(Rope)
def rope(given: Rope) -> Tensor:
    """Rotary position embedding (Su et al. 2021): `rope_apply` of `rope_table`.

    x `[B, T, H*D]`, position `[B, T]` int64 (-1 padding) -> `[B, T, H*D]` of x's dtype.
    """
    table = rope_table.of(given.table())
    return rope_apply(x=given.x, table=table, head_dim=given.head_dim, rotary_dim=given.rotary_dim, layout=given.layout)
