"""The few sizes that a GPU sees: prompts and batches are padded up to them."""

from __future__ import annotations

from ...kernels.gpu.sizes import ceil_div, power_of_2

SMALLEST_PREFILL = 16
LARGEST_STEP = 512
"""Prompts beyond it are padded to a multiple of it: by fewer tokens than this, however long they are."""


def prefill_tokens(tokens: int) -> int:
    """The length that a prompt of so many tokens is padded to: a power of two, or a multiple of 512 above that."""
    if tokens > LARGEST_STEP:
        return ceil_div(tokens, LARGEST_STEP) * LARGEST_STEP
    return max(SMALLEST_PREFILL, power_of_2(tokens))


def batch_rows(rows: int) -> int:
    """The rows of the cache and the graph that serve so many prompts."""
    return power_of_2(rows)


def capacity(tokens: int, limit: int | None) -> int:
    """The tokens a row that a cache is made for: a power of two from 256 on, within the model's context."""
    wanted = max(256, power_of_2(tokens))
    return wanted if limit is None else max(tokens, min(wanted, limit))
