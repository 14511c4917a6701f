"""The definition of the scan: the recurrence of every linear-time mixer, token by token.

With `S` the state of a head, `[Dk, Dv]`:

    S_t = decay_t * S_{t-1} + change_t + dt_t * k_t v_t^T        y_t = scale * S_t^T q_t + skip * v_t

    update: add          change = 0
    update: delta        change = -beta_t * k_t (k_t^T decay_t S_{t-1}), and beta_t scales the write
    update: erase_write  change = write_t (erase_t^T S_{t-1})
"""

from __future__ import annotations

from typing import Literal, TypeAlias, overload

import torch
from torch import Tensor

ScanState: TypeAlias = tuple[Tensor]
"""`S` of every head, `[B, H, Dk, Dv]` float32."""
DecayShape: TypeAlias = Literal["none", "head", "state", "token_head", "token_channel"]
DecayForm: TypeAlias = Literal["log", "A_log"]
Update: TypeAlias = Literal["add", "delta", "erase_write"]


@overload
def scan(
    *,
    v: Tensor,
    k: Tensor,
    q: Tensor,
    position: Tensor,
    key_dim: int,
    value_dim: int,
    decay: Tensor | None = None,
    dt: Tensor | None = None,
    beta: Tensor | None = None,
    erase: Tensor | None = None,
    write: Tensor | None = None,
    skip: Tensor | None = None,
    decay_per: DecayShape = "none",
    decay_form: DecayForm = "log",
    update: Update = "add",
    scale: float = 1.0,
    chunk_size: int = 64,
) -> Tensor: ...
@overload
def scan(
    *,
    v: Tensor,
    k: Tensor,
    q: Tensor,
    position: Tensor,
    key_dim: int,
    value_dim: int,
    decay: Tensor | None = None,
    dt: Tensor | None = None,
    beta: Tensor | None = None,
    erase: Tensor | None = None,
    write: Tensor | None = None,
    skip: Tensor | None = None,
    decay_per: DecayShape = "none",
    decay_form: DecayForm = "log",
    update: Update = "add",
    scale: float = 1.0,
    chunk_size: int = 64,
    state: ScanState,
) -> tuple[Tensor, ScanState]: ...
def scan(
    *,
    v: Tensor,
    k: Tensor,
    q: Tensor,
    position: Tensor,
    key_dim: int,
    value_dim: int,
    decay: Tensor | None = None,
    dt: Tensor | None = None,
    beta: Tensor | None = None,
    erase: Tensor | None = None,
    write: Tensor | None = None,
    skip: Tensor | None = None,
    decay_per: DecayShape = "none",
    decay_form: DecayForm = "log",
    update: Update = "add",
    scale: float = 1.0,
    chunk_size: int = 64,
    state: ScanState | None = None,
) -> Tensor | tuple[Tensor, ScanState]:
    """The recurrence above for every head, in float32 (float64 for float64 v).

    v `[B, T, H*Dv]`; k, q `[B, T, G*Dk]`, where `H/G` heads share a key; decay shaped as `decay_per` says (head `[H]`,
    state `[H, Dk]`, token_head `[B, T, H]`, token_channel `[B, T, H*Dk]`): the logarithm, or with decay_form A_log the
    logarithm of its negative; dt, beta `[B, T, H]`; erase, write `[B, T, H*Dk]`; skip `[H]`; position `[B, T]` int64.
    dt scales the log decay and the write. Padding (position -1) leaves the state alone and gives zeros. `chunk_size` is
    a hint to kernels -> `[B, T, H*Dv]` of v's dtype. With a state the tokens continue it, and `(out, state)` is given:
    the state is updated in place.

    S6: Gu and Dao 2023, algorithm 2; SSD: Dao and Gu 2024, eq. 16; gated delta rule: Yang et al. 2024, eq. 10;
    erase_write: Peng et al. 2025, eq. 16.
    """
    del chunk_size
    wide = torch.promote_types(v.dtype, torch.float32)
    batch, tokens = position.shape
    heads = v.shape[-1] // value_dim
    is_token = position >= 0  # [B, T]

    def by_head(x: Tensor, size: int) -> Tensor:
        """[B, T, H*size or G*size] -> [T, B, H, size], zero where there is no token."""
        x = x.masked_fill(~is_token[..., None], 0.0).to(wide).view(batch, tokens, x.shape[-1] // size, size)
        return x.repeat_interleave(heads // x.shape[2], dim=2).transpose(0, 1)

    values, keys, queries = by_head(v, value_dim), by_head(k, key_dim), by_head(q, key_dim)
    steps = None if dt is None else by_head(dt, 1)
    strengths = None if beta is None else by_head(beta, 1)
    erased = None if erase is None else by_head(erase, key_dim)
    written = None if write is None else by_head(write, key_dim)
    log_decay = None
    if decay is not None:
        size = key_dim if decay_per in ("state", "token_channel") else 1
        log_decay = decay.to(wide)
        log_decay = -log_decay.exp() if decay_form == "A_log" else log_decay
        if decay_per in ("token_head", "token_channel"):
            log_decay = by_head(log_decay, size)
        else:
            log_decay = log_decay.view(1, 1, heads, size).expand(tokens, batch, heads, size)
    s = v.new_zeros(batch, heads, key_dim, value_dim, dtype=wide) if state is None else state[0].to(wide)
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
    read = torch.stack(outputs) * scale if outputs else values
    if skip is not None:
        read = read + skip.to(wide)[:, None] * values
    out = read.transpose(0, 1).reshape(v.shape).to(v.dtype)
    out = out.masked_fill(~is_token[..., None], 0.0)
    if state is None:
        return out
    state[0].copy_(s)
    return out, state
