"""The definition of the scan: the recurrence of every linear-time mixer, token by token.

With `S` the state of a head, `[Dk, Dv]`:

    S_t = decay_t * S_{t-1} + change_t + dt_t * k_t v_t^T        y_t = scale * S_t^T q_t + skip * v_t

    update: add          change = 0
    update: delta        change = -beta_t * k_t (k_t^T decay_t S_{t-1}), and beta_t scales the write
    update: erase_write  change = write_t (erase_t^T S_{t-1})
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..continued import continued
from .fields import Scan, ScanFrom


@continued(Scan, ScanFrom)
def scan(given: Scan, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """The recurrence above for every head, in float32 (float64 for float64 v).

    v `[B, T, H*Dv]`; k, q `[B, T, G*Dk]`, where `H/G` heads share a key; decay shaped as `decay_per` says (head `[H]`,
    state `[H, Dk]`, token_head `[B, T, H]`, token_channel `[B, T, H*Dk]`): the logarithm, or with decay_form A_log the
    logarithm of its negative; dt, beta `[B, T, H]`; erase, write `[B, T, H*Dk]`; skip `[H]`; position `[B, T]` int64.
    dt scales the log decay and the write. Padding (position -1) leaves the state alone and gives zeros -> `[B, T,
    H*Dv]` of v's dtype. With a state the tokens continue it, and `(out, state)` is given: the state is updated in
    place.

    S6: Gu and Dao 2023, algorithm 2; SSD: Dao and Gu 2024, eq. 16; gated delta rule: Yang et al. 2024, eq. 10;
    erase_write: Peng et al. 2025, eq. 16.
    """
    v, key_dim, value_dim, heads = given.v, given.key_dim, given.value_dim, given.heads
    wide = torch.promote_types(v.dtype, torch.float32)
    batch, tokens = given.position.shape
    is_token = given.position >= 0  # [B, T]

    def by_head(x: Tensor, size: int) -> Tensor:
        """[B, T, H*size or G*size] -> [T, B, H, size], zero where there is no token."""
        x = x.masked_fill(~is_token[..., None], 0.0).to(wide).view(batch, tokens, x.shape[-1] // size, size)
        return x.repeat_interleave(heads // x.shape[2], dim=2).transpose(0, 1)

    values, keys, queries = by_head(v, value_dim), by_head(given.k, key_dim), by_head(given.q, key_dim)
    steps = None if given.dt is None else by_head(given.dt, 1)
    strengths = None if given.beta is None else by_head(given.beta, 1)
    erased = None if given.erase is None else by_head(given.erase, key_dim)
    written = None if given.write is None else by_head(given.write, key_dim)
    log_decay = None
    if given.decay is not None:
        size = key_dim if given.is_per_channel else 1
        log_decay = given.decay.to(wide)
        log_decay = -log_decay.exp() if given.decay_form == "A_log" else log_decay
        if given.decay_per in ("token_head", "token_channel"):
            log_decay = by_head(log_decay, size)
        else:
            log_decay = log_decay.view(1, 1, heads, size).expand(tokens, batch, heads, size)
    s = v.new_zeros(batch, heads, key_dim, value_dim, dtype=wide) if state is None else state.to(wide)
    outputs: list[Tensor] = []
    for t in range(tokens):
        old, amount = s, keys[t] if steps is None else keys[t] * steps[t]  # [B, H, Dk, Dv], [B, H, Dk]
        if log_decay is not None:
            exponent = log_decay[t] if steps is None else log_decay[t] * steps[t]
            s = s * exponent.masked_fill(~is_token[:, t, None, None], 0.0).exp()[..., None]
        if strengths is not None:
            amount = amount * strengths[t]
            s = s - (keys[t] * strengths[t])[..., None] * (keys[t][..., None, :] @ s)
        if erased is not None and written is not None:
            s = s + written[t][..., None] * (erased[t][..., None, :] @ old)
        s = s + amount[..., None] * values[t][..., None, :]
        outputs.append((queries[t][..., None, :] @ s)[..., 0, :])  # [B, H, Dv]
    read = torch.stack(outputs) * given.scale if outputs else values
    if given.skip is not None:
        read = read + given.skip.to(wide)[:, None] * values
    out = read.transpose(0, 1).reshape(v.shape).to(v.dtype)
    return out.masked_fill(~is_token[..., None], 0.0), s
