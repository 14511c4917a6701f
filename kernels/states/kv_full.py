"""Keys and values of every token."""

from __future__ import annotations

from .protocol import Sizes, Slot, StateKind


def _slots(sizes: Sizes, capacity: int) -> tuple[Slot, ...]:
    return (
        Slot(name="keys", shape=(sizes["heads"], capacity, sizes["key_dim"])),
        Slot(name="values", shape=(sizes["heads"], capacity, sizes["value_dim"])),
    )


KV_FULL = StateKind(
    name="kv_full",
    doc="Keys and values of every token; the token at position p lies in slot p of its row.",
    size_names=("heads", "key_dim", "value_dim"),
    slots=_slots,
    rollback="truncate",
    reorder="tokens",
    prefix_share="page",
    append="cache:kv_full_append",
    may_be_shorter=True,
)
