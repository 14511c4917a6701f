"""The log decay and the step of every token and head, as kernels in chunks read them, with torch's gradients."""

from __future__ import annotations

from torch import Tensor

from .reference import DecayForm, DecayShape


def rates_per_head(
    *,
    decay: Tensor | None,
    dt: Tensor | None,
    position: Tensor,
    decay_per: DecayShape,
    decay_form: DecayForm,
    heads: int,
) -> tuple[Tensor | None, Tensor | None]:
    """The log decay, dt included, and dt: each `[B, H, T]` float32, 0 at padding, None where it is always 0 or 1.

    decay is per head or per token and head; position `[B, T]`, -1 where a token is padding.
    """
    drop = (position < 0)[..., None]
    steps = None if dt is None else dt.masked_fill(drop, 0.0).float()
    by_head = None if steps is None else steps.transpose(1, 2).contiguous()
    if decay is None:
        return None, by_head
    rate = decay.masked_fill(drop, 0.0).float() if decay_per == "token_head" else decay.float()
    rate = -rate.exp() if decay_form == "A_log" else rate
    rate = rate.expand(*position.shape, heads).masked_fill(drop, 0.0) if steps is None else rate * steps
    return rate.transpose(1, 2).contiguous(), by_head


def rates_per_channel(
    *,
    decay: Tensor,
    dt: Tensor | None,
    position: Tensor,
    decay_per: DecayShape,
    decay_form: DecayForm,
    heads: int,
) -> Tensor:
    """The log decay of each element of a key, dt included, `[B, T, H*Dk]`: decay itself where it is that already.

    decay is per state or per token and channel. What it holds at padding is not to be read.
    """
    if decay_per == "token_channel" and decay_form == "log" and dt is None:
        return decay
    drop = (position < 0)[..., None]
    rate = decay.masked_fill(drop, 0.0).float() if decay_per == "token_channel" else decay.float().flatten()
    rate = -rate.exp() if decay_form == "A_log" else rate
    if dt is not None:
        steps = dt.masked_fill(drop, 0.0).float()
        rate = (rate.view(*rate.shape[:-1], heads, rate.shape[-1] // heads) * steps[..., None]).flatten(2)
    return rate.expand(*position.shape, rate.shape[-1])
