"""Keys and values of what is given once: an encoder's tokens, read by every token of the stream."""

from __future__ import annotations

from .protocol import Sizes, Slot, StateKind


def _slots(sizes: Sizes, capacity: int) -> tuple[Slot, ...]:
    return (
        Slot(name="keys", shape=(sizes["heads"], capacity, sizes["key_dim"])),
        Slot(name="values", shape=(sizes["heads"], capacity, sizes["value_dim"])),
        Slot(name="position", shape=(capacity,), dtype="int64"),
    )


CROSS_KV = StateKind(
    name="cross_kv",
    doc="Keys and values of another axis, such as an encoder's, and their positions (-1 for padding): computed at the "
    "first call and never changed by the tokens after it. Requests share them where they give the same input once.",
    size_names=("heads", "key_dim", "value_dim"),
    slots=_slots,
    rollback="none",
    reorder="shared",
    prefix_share="static",
    append="cache:cross_kv_append",
    axis="once",
)
