"""The matrix of a linear recurrence, one per head."""

from __future__ import annotations

from .protocol import Sizes, Slot, StateKind


def _slots(sizes: Sizes, _capacity: int) -> tuple[Slot, ...]:
    return (Slot(name="matrix", shape=(sizes["heads"], sizes["key_dim"], sizes["value_dim"]), dtype="float32"),)


MATRIX = StateKind(
    name="matrix",
    doc="What a linear recurrence has written so far: a float32 matrix per head, however many tokens there were.",
    size_names=("heads", "key_dim", "value_dim"),
    slots=_slots,
    rollback="snapshot",
    reorder="whole",
    prefix_share="checkpoint",
    append="scan:scan",
)
