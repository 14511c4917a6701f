"""What a kind of state declares: its buffers, its bytes, and its laws for rollback, reordering and sharing a prefix.

Imports no torch until memory is asked for, so that a plan of bytes stays light.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Sizes: TypeAlias = Mapping[str, int]
Rollback: TypeAlias = Literal["truncate", "snapshot", "none", "follow"]
"""How tokens are taken back. `truncate`: lower the row's length, nothing else; what lies beyond is hidden and later
overwritten. `snapshot`: copy the buffers before, copy them back. `none`: the state never changes after prefill.
`follow`: as its producer.
"""
Reorder: TypeAlias = Literal["tokens", "whole", "shared"]
"""How a row becomes a copy of another one of the same length, when it goes on from that one's text. `tokens`: by slots,
of which only those of the tokens that differ are copied; the token at position p lies in slot p modulo the slots.
`whole`: all of it. `shared`: rows that read one input read one row of the state, and nothing is copied.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One buffer of a state: its shape without the batch axis, and its dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: Literal["model", "float32", "int64"] = "model"


def never_refuses(_sizes: Sizes, _capacity: int, _reached: int, _length: int) -> str | None:
    """The `refuse_rollback` of kinds that can go back to any length."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class StateKind:
    """One kind of state. `capacity` is the largest number of tokens a row may hold; `axis` says whose tokens."""

    name: str
    doc: str
    size_names: tuple[str, ...]
    """The sizes an op must give."""
    slots: Callable[[Sizes, int], tuple[Slot, ...]]
    """The buffers, from `(sizes, capacity)`."""
    rollback: Rollback
    reorder: Reorder
    prefix_share: str
    """What two requests with one prefix may share: `page`, `last_window`, `checkpoint`, `static`, `follow` or `no`."""
    append: str
    """The reference that adds a call's tokens, `cache:<function>`."""
    may_be_shorter: bool = False
    """Whether kernels read and write its buffers in another dtype than the model's."""
    axis: Literal["stream", "once"] = "stream"
    """Whose tokens `capacity` counts: those of the stream, or those that the first call gives once (an encoder's), so
    that their number is not known before it: allocated for 0, the state is replaced by what that call computes."""
    refuse_rollback: Callable[[Sizes, int, int, int], str | None] = never_refuses
    """From `(sizes, capacity, reached, length)`: why a row that once held `reached` tokens (its high-water mark, not
    its present length) cannot go back to `length`; None where it can.
    """

    def bytes(self, sizes: Sizes, batch: int, capacity: int, itemsize: int) -> int:
        """Bytes of all buffers; `itemsize` is that of the dtype of `allocate`."""
        width = {"model": itemsize, "float32": 4, "int64": 8}
        slots = self.slots(sizes, capacity)
        scales = 4 * sum(prod(slot.shape[:-1]) for slot in slots) if itemsize == 1 else 0
        return batch * (sum(prod(slot.shape) * width[slot.dtype] for slot in slots) + scales)

    def allocate(
        self, sizes: Sizes, batch: int, capacity: int, dtype: torch.dtype, device: torch.device | str
    ) -> tuple[Tensor, ...]:
        """Buffers `[B, *slot.shape]` in the order of `slots`; zeros, because a masked weight times NaN is NaN.

        Of one byte an element, which only kinds that `may_be_shorter` are asked for, each has a scale for each row,
        float32 `[B, *slot.shape[:-1]]`; these follow the buffers.
        """
        import torch

        dtypes = {"model": dtype, "float32": torch.float32, "int64": torch.int64}
        slots = self.slots(sizes, capacity)
        scales = [(slot.shape[:-1], torch.float32) for slot in slots] if dtype.itemsize == 1 else []
        return tuple(
            torch.zeros(batch, *shape, dtype=of, device=device)
            for shape, of in (*((slot.shape, dtypes[slot.dtype]) for slot in slots), *scales)
        )
