"""The few sizes that a GPU sees: prompts and batches are padded up to them."""

from __future__ import annotations

SMALLEST_PREFILL = 16
LARGEST_STEP = 512
"""Prompts beyond it are padded to a multiple of it, so that at most a ninth of long ones is padding."""


def prefill_tokens(tokens: int) -> int:
    """The length that a prompt of so many tokens is padded to: a power of two, or a multiple of 512 above that."""
    if tokens > LARGEST_STEP:
        return -(-tokens // LARGEST_STEP) * LARGEST_STEP
    return max(SMALLEST_PREFILL, power_of_two(tokens))


def batch_rows(rows: int) -> int:
    """The rows of the cache and the graph that serve so many prompts."""
    return power_of_two(rows)


def capacity(tokens: int, limit: int | None) -> int:
    """The tokens a row that a cache is made for: a power of two from 256 on, within the model's context."""
    wanted = max(256, power_of_two(tokens))
    return wanted if limit is None else max(tokens, min(wanted, limit))


def power_of_two(size: int) -> int:
    """The power of two at or above a size."""
    return 1 << max(0, size - 1).bit_length()
