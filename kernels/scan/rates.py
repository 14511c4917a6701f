"""The log decay and the step of every token and head, as kernels in chunks read them, with torch's gradients."""

from __future__ import annotations

from torch import Tensor

from .fields import Scan


def rates_per_head(given: Scan) -> tuple[Tensor | None, Tensor | None]:
    """The log decay, dt included, and dt: each `[B, H, T]` float32, 0 at padding, None where it is always 0 or 1.

    Of a decay per channel, None.
    """
    drop = (given.position < 0)[..., None]
    steps = None if given.dt is None else given.dt.masked_fill(drop, 0.0).float()
    by_head = None if steps is None else steps.transpose(1, 2).contiguous()
    if given.decay is None or given.is_per_channel:
        return None, by_head
    rate = given.decay.masked_fill(drop, 0.0).float() if given.decay_per == "token_head" else given.decay.float()
    rate = -rate.exp() if given.decay_form == "A_log" else rate
    shape = (*given.position.shape, given.heads)
    rate = rate.expand(shape).masked_fill(drop, 0.0) if steps is None else rate * steps
    return rate.transpose(1, 2).contiguous(), by_head


def rates_per_channel(given: Scan) -> Tensor | None:
    """The log decay of each element of a key, dt included, `[B, T, H*Dk]`: decay itself where it is that already.

    Of any other decay, None. What it holds at padding is not to be read.
    """
    decay, dt = given.decay, given.dt
    if decay is None or not given.is_per_channel:
        return None
    is_by_token = given.decay_per == "token_channel"
    if is_by_token and given.decay_form == "log" and dt is None:
        return decay
    drop = (given.position < 0)[..., None]
    rate = decay.masked_fill(drop, 0.0).float() if is_by_token else decay.float().flatten()
    rate = -rate.exp() if given.decay_form == "A_log" else rate
    if dt is not None:
        steps = dt.masked_fill(drop, 0.0).float()
        rate = (rate.view(*rate.shape[:-1], given.heads, -1) * steps[..., None]).flatten(2)
    return rate.expand(*given.position.shape, rate.shape[-1])
