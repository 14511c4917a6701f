"""The tail of a short convolution: its last inputs."""

from __future__ import annotations

from .protocol import Sizes, Slot, StateKind


def _slots(sizes: Sizes, _capacity: int) -> tuple[Slot, ...]:
    return (Slot(name="tail", shape=(sizes["channels"], sizes["kernel"] - 1)),)


CONV = StateKind(
    name="conv",
    doc="The last `kernel - 1` inputs of a causal convolution, the newest last; zeros before the first token.",
    size_names=("channels", "kernel"),
    slots=_slots,
    rollback="snapshot",
    reorder="whole",
    prefix_share="checkpoint",
    append="conv:short_conv",
)
