"""The last token that a token shift has seen."""

from __future__ import annotations

from .protocol import Sizes, Slot, StateKind


def _slots(sizes: Sizes, _capacity: int) -> tuple[Slot, ...]:
    return (Slot(name="last", shape=(sizes["features"],)),)


TOKEN_SHIFT = StateKind(
    name="token_shift",
    doc="The last token, which the next one reads; zeros before the first.",
    size_names=("features",),
    slots=_slots,
    rollback="snapshot",
    reorder="whole",
    prefix_share="checkpoint",
    append="shift:token_shift",
)
