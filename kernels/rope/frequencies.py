"""How fast each pair of dims turns, and the published ways to stretch that to longer contexts.

Each follows transformers `modeling_rope_utils.ROPE_INIT_FUNCTIONS` operation by operation, in float32. Where the law
depends on the length of the sequence (`dynamic`, `longrope`) it is taken per row of the batch, so that a padded row
equals the row alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def plain(rotary_dim: int, theta: float | Tensor, device: torch.device) -> Tensor:
    """`theta^(-2i / R)` (Su et al. 2021, eq. 15) -> `[R/2]` float32; a theta of `[B, 1, 1]` gives `[B, 1, R/2]`."""
    exponent = torch.arange(0, rotary_dim, 2, dtype=torch.int64, device=device).float() / rotary_dim
    return 1.0 / (theta**exponent)


def dynamic(position: Tensor, rotary_dim: int, theta: float, factor: float, max_seq_len: int) -> Tensor:
    """NTK scaling by the length of each row beyond `max_seq_len` (bloc97, emozilla) -> `[B, 1, R/2]`."""
    length = (position.amax(1) + 1).clamp(min=max_seq_len).float()[:, None, None]
    stretch = (factor * length / max_seq_len) - (factor - 1)
    return plain(rotary_dim, theta * stretch ** (rotary_dim / (rotary_dim - 2)), position.device)


def llama3(frequency: Tensor, factor: float, low_freq_factor: float, high_freq_factor: float, original: int) -> Tensor:
    """Long wavelengths divided by `factor`, short ones kept, a ramp between (Llama 3.1) -> `[R/2]`."""
    wavelength = 2 * math.pi / frequency
    slowed = torch.where(wavelength > original / low_freq_factor, frequency / factor, frequency)
    ramp = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor)
    is_between = (wavelength >= original / high_freq_factor) & (wavelength <= original / low_freq_factor)
    return torch.where(is_between, (1 - ramp) * slowed / factor + ramp * slowed, slowed)


def yarn(
    rotary_dim: int,
    theta: float,
    factor: float,
    original: int,
    beta_fast: float,
    beta_slow: float,
    truncate: bool,
    device: torch.device,
) -> Tensor:
    """A ramp from kept to divided frequencies (Peng et al. 2023, section 3.2) -> `[R/2]`.

    Pairs that turn more than `beta_fast` times in the original context are kept, fewer than `beta_slow` times divided.
    """

    def dim_that_turns(times: float) -> float:
        return (rotary_dim * math.log(original / (times * 2 * math.pi))) / (2 * math.log(theta))

    low, high = dim_that_turns(beta_fast), dim_that_turns(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    if low == high:
        high += 0.001
    kept = 1 - ((torch.arange(rotary_dim // 2, dtype=torch.float32, device=device) - low) / (high - low)).clamp(0, 1)
    wavelength = theta ** (torch.arange(0, rotary_dim, 2, device=device).float() / rotary_dim)
    return 1.0 / (factor * wavelength) * (1 - kept) + 1.0 / wavelength * kept


def yarn_attention_factor(factor: float, mscale: float | None, mscale_all_dim: float | None) -> float:
    """The temperature of YaRN, `0.1 ln(factor) + 1` (eq. 22), or DeepSeek's ratio of two."""

    def temperature(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if mscale and mscale_all_dim:
        return temperature(mscale) / temperature(mscale_all_dim)
    return temperature(1.0)


def longrope(
    position: Tensor,
    rotary_dim: int,
    theta: float,
    short_factor: Sequence[float],
    long_factor: Sequence[float],
    original: int,
) -> Tensor:
    """A divisor per pair; the long list in rows longer than `original` (Ding et al. 2024) -> `[B, 1, R/2]`."""
    device = position.device
    short = torch.tensor(short_factor, dtype=torch.float32, device=device)
    long = torch.tensor(long_factor, dtype=torch.float32, device=device)
    is_long = (position.amax(1) + 1 > original)[:, None, None]
    exponent = torch.arange(0, rotary_dim, 2, dtype=torch.int64, device=device).float() / rotary_dim
    return 1.0 / (torch.where(is_long, long, short) * theta**exponent)


def longrope_attention_factor(factor: float, original: int) -> float:
    """`sqrt(1 + ln(factor) / ln(original))` (Ding et al. 2024)."""
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))


def proportional(rotary_dim: int, theta: float, factor: float, fraction: float, device: torch.device) -> Tensor:
    """The first `fraction` of the pairs turn as in a whole head, the others stand still (Gemma 4) -> `[R/2]`."""
    turning = int(fraction * rotary_dim // 2)
    frequency = plain(rotary_dim, theta, device)
    frequency[turning:] = 0.0
    return frequency / factor
