"""Keys and values of the last tokens, in a ring with some slack so that a short rollback loses nothing."""

from __future__ import annotations

from .protocol import Sizes, Slot, StateKind

ROLLBACK_SLACK = 16
"""Tokens beyond the window that the ring keeps: so many can be taken back, e.g. after a rejected draft."""


def ring_size(sizes: Sizes, capacity: int) -> int:
    """Slots of the ring, in tokens."""
    return min(capacity, sizes["window"] + ROLLBACK_SLACK)


def _slots(sizes: Sizes, capacity: int) -> tuple[Slot, ...]:
    ring = ring_size(sizes, capacity)
    return (
        Slot(name="keys", shape=(sizes["heads"], ring, sizes["key_dim"])),
        Slot(name="values", shape=(sizes["heads"], ring, sizes["value_dim"])),
    )


def _refuse_rollback(sizes: Sizes, capacity: int, reached: int, length: int) -> str | None:
    ring = ring_size(sizes, capacity)
    if reached <= ring or reached - length <= ROLLBACK_SLACK:
        return None
    return (
        f"a window of {sizes['window']} tokens keeps {ROLLBACK_SLACK} more for rollback, "
        f"but going from {reached} tokens back to {length} takes {reached - length}"
    )


KV_WINDOW = StateKind(
    name="kv_window",
    doc="Keys and values of the last `window` tokens; the token at position p lies in slot p modulo the ring.",
    size_names=("heads", "key_dim", "value_dim", "window"),
    slots=_slots,
    rollback="truncate",
    reorder="tokens",
    prefix_share="last_window",
    append="cache:kv_window_append",
    may_be_shorter=True,
    refuse_rollback=_refuse_rollback,
)
