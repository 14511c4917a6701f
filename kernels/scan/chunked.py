"""Scan in chunks of tokens, where a head forgets by one factor: matrix products in a chunk, a state between chunks.

With `a_t` the log decay summed from the chunk's start, and `S` the state that the chunk begins with:

    y_t = exp(a_t) S^T q_t + sum_{s <= t} exp(a_t - a_s) (q_t . k_s) dt_s v_s        S' = exp(a_C) S + sum_s ...

Dao and Gu 2024, section 6 (the block decomposition). The sums are float64, so that a strong decay early in a chunk
costs the later tokens no digits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..continued import continued
from ..kernel import Request
from .fields import Scan, ScanFrom

MAX_CHUNK = 64
"""Beyond it the scores inside a chunk cost more than the state between chunks."""
FORGOTTEN = -1e4
"""A log decay whose factor is 0 in every dtype; -inf would give NaN in a difference."""
PER_HEAD = ("none", "head", "token_head")


def serves(request: Request) -> str | None:
    """None, or why there is nothing to take in chunks."""
    if request.phase == "decode":
        return "one token at a time has no chunks"
    if request.fields.get("update", "add") != "add":
        return "a state that is also erased does not split into matrix products of this form"
    if request.fields.get("decay_per", "none") not in PER_HEAD:
        return "each element of a state has a decay of its own"
    return None


@continued(Scan, ScanFrom)
def scan(given: Scan, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Arguments and result are those of the reference, `update` add and one decay per head; raises ValueError else."""
    check(given)
    v, key_dim, value_dim, heads = given.v, given.key_dim, given.value_dim, given.heads
    wide = torch.promote_types(v.dtype, torch.float32)
    batch, tokens = given.position.shape
    groups = given.k.shape[-1] // key_dim
    shared = heads // groups  # R, the heads of a group
    is_token = given.position >= 0
    drop = ~is_token[..., None]
    keys = given.k.masked_fill(drop, 0.0).to(wide).view(batch, tokens, groups, key_dim).transpose(1, 2)  # [B, G, T, Dk]
    queries = given.q.masked_fill(drop, 0.0).to(wide).view(batch, tokens, groups, key_dim).transpose(1, 2)
    values = v.masked_fill(drop, 0.0).to(wide).view(batch, tokens, groups, shared, value_dim)  # [B, T, G, R, Dv]
    amounts = values
    if given.dt is not None:
        amounts = values * given.dt.masked_fill(drop, 0.0).to(wide).view(batch, tokens, groups, shared, 1)
    amounts = amounts.transpose(1, 2)  # [B, G, T, R, Dv]
    rates = _log_decay(given, is_token)
    rates = rates.view(batch, tokens, groups, shared).permute(0, 2, 3, 1)  # [B, G, R, T] float64
    s = v.new_zeros(batch, groups, key_dim, shared * value_dim, dtype=wide)
    if state is not None:
        s = state.to(wide).view(batch, groups, shared, key_dim, value_dim).transpose(2, 3).flatten(3)
    outputs: list[Tensor] = []
    size = min(given.chunk_size, MAX_CHUNK)
    for start in range(0, tokens, size):
        part = slice(start, start + size)
        out, s = _chunk(queries[:, :, part], keys[:, :, part], amounts[:, :, part], rates[..., part].cumsum(-1), s)
        outputs.append(out)
    read = torch.cat(outputs, dim=2).transpose(1, 2) * given.scale if outputs else values  # [B, T, G, R, Dv]
    if given.skip is not None:
        read = read + given.skip.to(wide).view(groups, shared, 1) * values
    out = read.reshape(v.shape).to(v.dtype).masked_fill(drop, 0.0)
    if not outputs:  # then `s` may be the state itself, seen in another order
        return out, None
    s = s.view(batch, groups, key_dim, shared, value_dim).transpose(2, 3)
    return out, s.reshape(batch, heads, key_dim, value_dim)


def check(given: Scan) -> None:
    """Raises ValueError where a head does not forget by one factor."""
    if not given.has_one_factor:
        raise ValueError(f"no chunks for update {given.update} with decay_per {given.decay_per}")


def _log_decay(given: Scan, is_token: Tensor) -> Tensor:
    """The logarithm of each token's factor, `[B, T, H]` float64; 0 where there is no token."""
    shape = (*is_token.shape, given.heads)
    if given.decay is None:
        return is_token.new_zeros(shape, dtype=torch.float64)
    rate = given.decay.to(torch.float64)
    rate = -rate.exp() if given.decay_form == "A_log" else rate
    rate = rate if given.dt is None else rate * given.dt.to(torch.float64)
    rate = rate.expand(shape)
    return rate.masked_fill(~is_token[..., None], 0.0).clamp(min=FORGOTTEN)


def _chunk(q: Tensor, k: Tensor, amounts: Tensor, summed: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """One chunk: q, k `[B, G, C, Dk]`, amounts `[B, G, C, R, Dv]`, summed `[B, G, R, C]` float64, s `[B, G, Dk, R*Dv]`
    -> what is read `[B, G, C, R, Dv]`, and the state after it."""
    wide, tokens = q.dtype, q.shape[2]
    later = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).triu(1)
    between = (
        (summed[..., None] - summed[..., None, :]).to(wide).masked_fill(later, -torch.inf).exp()
    )  # [B, G, R, C, C]
    weights = (q @ k.transpose(-1, -2))[:, :, None] * between
    inside = (weights @ amounts.transpose(2, 3)).transpose(2, 3)  # [B, G, C, R, Dv]
    before = (q @ s).view(amounts.shape) * summed.to(wide).exp().transpose(2, 3)[..., None]
    left = (summed[..., -1:] - summed).to(wide).exp().transpose(2, 3)[..., None]  # [B, G, C, R, 1]
    kept = summed[..., -1].to(wide).exp()[:, :, None, :, None]  # [B, G, 1, R, 1]
    s = (s.view(*s.shape[:3], *amounts.shape[3:]) * kept).flatten(3) + k.transpose(-1, -2) @ (amounts * left).flatten(3)
    return inside + before, s
