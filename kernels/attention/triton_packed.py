"""Attention over sequences packed end to end, without padding: the same kernels, told apart by positions alone."""

# pyright: basic
from __future__ import annotations

import math

import torch
from torch import Tensor

from ..gpu.sizes import ceil_div
from ..record import called_with, shared
from .fields import AttendCached, AttendPacked, MaskedScores
from .triton_attention import attention_with_logsumexp

HIGHEST = 2**31 - 1
"""The largest position that the kernels tell from others."""


@called_with(AttendPacked)
def attend_packed(given: AttendPacked) -> tuple[Tensor, Tensor]:
    """Attention within each of N sequences -> out `[total, H, Dv]` and the logarithm of its sums, `[H, total]` float32.

    q `[total, H, D]`, k `[total_k, Hkv, D]`, v `[total_k, Hkv, Dv]`; cu_seqlens `[N + 1]` are the ends of the sequences
    in q, from 0 on, and cu_seqlens_k those in k where they differ: the queries are then the last tokens of their
    sequence (a prefix is cached). max_seqlen is at least the length of the longest in tokens; nothing is read on the
    host. Tokens after the last sequence give zeros. The other arguments are those of `reference.attend_cached`.

    A block of queries that meets several sequences visits the keys of all of them, so that short sequences cost what
    their neighbours in a block cost. Raises ValueError where N * max_seqlen positions do not fit 31 bits.
    """
    q, k, v, max_seqlen, chunk = given.q, given.k, given.v, given.max_seqlen, given.chunk
    ends = given.cu_seqlens
    key_ends = ends if given.cu_seqlens_k is None else given.cu_seqlens_k
    run = max_seqlen if chunk is None else ceil_div(max_seqlen, chunk) * chunk
    if (len(ends) - 1) * run > HIGHEST:
        raise ValueError(f"{len(ends) - 1} sequences of up to {run} tokens have more than {HIGHEST} positions")
    lead = (key_ends[1:] - key_ends[:-1]) - (ends[1:] - ends[:-1])
    cached = AttendCached(
        q=q.reshape(1, q.shape[0], q.shape[1] * q.shape[2]),
        keys=k.transpose(0, 1)[None],
        values=v.transpose(0, 1)[None],
        key_position=_positions(key_ends, None, k.shape[0], run),
        position=_positions(ends, lead, q.shape[0], run),
        head_dim=q.shape[2],
        v_head_dim=v.shape[2],
        **{**shared(given, MaskedScores), "chunk": run if chunk is None else chunk},
    )
    out, lse = attention_with_logsumexp(cached)
    return out.view(q.shape[0], q.shape[1], v.shape[2]), lse[0].detach() * math.log(2.0)


def _positions(ends: Tensor, lead: Tensor | None, tokens: int, run: int) -> Tensor:
    """Of each packed token -> `[1, tokens]` int64: run for each sequence before, lead, and its place in its own."""
    order = torch.arange(tokens, device=ends.device)
    sequence = torch.searchsorted(ends[1:].contiguous(), order, right=True)
    last = sequence.clamp(max=len(ends) - 2)
    place = order - ends[last] + (0 if lead is None else lead[last])
    return torch.where(sequence == last, last * run + place, -1)[None]
