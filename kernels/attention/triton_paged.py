"""Attention of few queries over a cache of pages in Triton: what a server that batches requests runs for each token.

It is the kernel of `triton_decode`, which here finds its keys through the table; since the key at position p lies p
slots after the first, no positions are looked through. Floor: the bytes of the keys and values that are seen.
"""

# pyright: basic
from __future__ import annotations

from torch import Tensor

from ..gpu.op import gpu_op
from . import paged_reference
from .reference import MaskKind
from .triton_shares import launch


def _launch(
    q: Tensor, keys: Tensor, values: Tensor, block_table: Tensor, lengths: Tensor, position: Tensor,
    distance_bias: Tensor | None, sink: Tensor | None, key_scale: Tensor | None, value_scale: Tensor | None,
    head_dim: int, is_causal: bool, window: int, chunk: int, scale: float, softcap: float, alibi: bool,
) -> Tensor:  # fmt: skip
    return launch(
        q, keys, values, block_table, lengths.contiguous(), position, None, distance_bias, sink, key_scale, value_scale,
        head_dim, is_causal, window, chunk, scale, softcap, alibi,
    )  # fmt: skip


def _fake(
    q: Tensor, keys: Tensor, values: Tensor, block_table: Tensor, lengths: Tensor, position: Tensor,
    distance_bias: Tensor | None, sink: Tensor | None, key_scale: Tensor | None, value_scale: Tensor | None,
    head_dim: int, is_causal: bool, window: int, chunk: int, scale: float, softcap: float, alibi: bool,
) -> Tensor:  # fmt: skip
    return q.new_empty((*position.shape, q.shape[-1] // head_dim * values.shape[-1]))


def _reference(
    q: Tensor, keys: Tensor, values: Tensor, block_table: Tensor, lengths: Tensor, position: Tensor,
    distance_bias: Tensor | None, sink: Tensor | None, key_scale: Tensor | None, value_scale: Tensor | None,
    head_dim: int, is_causal: bool, window: int, chunk: int, scale: float, softcap: float, alibi: bool,
) -> Tensor:  # fmt: skip
    return paged_reference.attend_paged(
        q=q, keys=keys, values=values, block_table=block_table, lengths=lengths, position=position, head_dim=head_dim,
        key_scale=key_scale, value_scale=value_scale, mask="causal" if is_causal else "bidirectional",
        window=window or None, chunk=chunk or None, scale=scale, softcap=softcap or None, alibi=alibi,
        distance_bias=distance_bias, sink=sink,
    )  # fmt: skip


_attend = gpu_op("attend_paged", _launch, fake=_fake, reference=_reference)


def attend_paged(
    *,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    block_table: Tensor,
    lengths: Tensor,
    position: Tensor,
    head_dim: int,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
    mask: MaskKind = "causal",
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: bool = False,
    distance_bias: Tensor | None = None,
    sink: Tensor | None = None,
) -> Tensor:
    """Arguments and result are those of `paged_reference`, without gradients.

    Raises ValueError for one scale without the other, and for pages that are not a power of two of at least 16 tokens.
    """
    if (key_scale is None) != (value_scale is None):
        raise ValueError("keys and values have a scale each, or none has")
    size = keys.shape[2]
    if size < 16 or size & (size - 1):
        raise ValueError(f"a page holds a power of two of at least 16 tokens, not {size}")
    return _attend(
        q, keys, values, block_table, lengths, position, distance_bias, sink, key_scale, value_scale, head_dim,
        mask == "causal", window or 0, chunk or 0, head_dim**-0.5 if scale is None else scale, softcap or 0.0, alibi,
    )  # fmt: skip
