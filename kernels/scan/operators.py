"""What operators of torch take of a scan, item by item, and what those in chunks compute by the definition."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from . import reference
from .fields import Update


class ChunkScan(NamedTuple):
    """Where a head forgets by one factor."""

    v: Tensor
    k: Tensor
    q: Tensor
    position: Tensor
    log: Tensor | None
    """As of `rates_per_head`, which holds what dt has to do with it."""
    dt: Tensor | None
    """As of `rates_per_head`."""
    skip: Tensor | None
    initial: Tensor | None
    """`[B, H, Dk, Dv]`."""
    key_dim: int
    value_dim: int
    scale: float

    @property
    def state_shape(self) -> tuple[int, int, int, int]:
        """Of the state before the row and after it."""
        return self.position.shape[0], self.v.shape[-1] // self.value_dim, self.key_dim, self.value_dim

    def delta(self) -> DeltaScan:
        """The same where states could be erased."""
        return DeltaScan(**self._asdict(), beta=None, erase=None, write=None, update="add", per_channel=False)


class DeltaScan(NamedTuple):
    """Where states are erased, or channels forget at rates of their own."""

    v: Tensor
    k: Tensor
    q: Tensor
    position: Tensor
    log: Tensor | None
    """As of `rates_per_channel` where `per_channel`, else as of `rates_per_head`."""
    dt: Tensor | None
    """As of `rates_per_head`."""
    beta: Tensor | None
    erase: Tensor | None
    write: Tensor | None
    skip: Tensor | None
    initial: Tensor | None
    """`[B, H, Dk, Dv]`."""
    key_dim: int
    value_dim: int
    update: str
    per_channel: bool
    scale: float

    @property
    def state_shape(self) -> tuple[int, int, int, int]:
        """Of the state before the row and after it."""
        return self.position.shape[0], self.v.shape[-1] // self.value_dim, self.key_dim, self.value_dim

    def part(self, begin: int, count: int) -> DeltaScan:
        """The `count` tokens from `begin`, fewer at the row's end."""
        own = slice(begin, begin + count)

        def rows(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[:, own]

        return self._replace(
            v=self.v[:, own],
            k=self.k[:, own],
            q=self.q[:, own],
            position=self.position[:, own],
            log=rows(self.log) if self.per_channel or self.log is None else self.log[..., own],
            dt=None if self.dt is None else self.dt[..., own],
            beta=rows(self.beta),
            erase=rows(self.erase),
            write=rows(self.write),
        )


class SelectiveScan(NamedTuple):
    """Where channels of one value share a key."""

    v: Tensor
    k: Tensor
    q: Tensor
    position: Tensor
    decay: Tensor
    dt: Tensor | None
    skip: Tensor | None
    initial: Tensor | None
    """`[B, H, N, 1]`."""
    decay_per: str
    decay_form: str
    scale: float

    @property
    def state_shape(self) -> tuple[int, int, int, int]:
        """Of the state before the row and after it."""
        return self.position.shape[0], self.v.shape[-1], self.k.shape[-1], 1


def by_reference(given: DeltaScan) -> tuple[Tensor, Tensor]:
    """What is read, and the state afterwards in float32; differentiable."""
    v, heads = given.v, given.state_shape[1]
    # another tensor than the one that is read, since it is written
    state = v.new_zeros(given.state_shape, dtype=torch.float64) if given.initial is None else given.initial.double()
    amounts, by_head = v, v.view(*given.position.shape, heads, given.value_dim)
    if given.dt is not None:  # its part in the decay is in `log` already
        amounts = (by_head * given.dt.transpose(1, 2)[..., None]).flatten(-2)
    log = given.log if given.log is None or given.per_channel else given.log.transpose(1, 2)
    read, _ = reference.scan(
        v=amounts, k=given.k, q=given.q, position=given.position, decay=log, beta=given.beta, erase=given.erase,
        write=given.write, state=(state,), key_dim=given.key_dim, value_dim=given.value_dim,
        update=cast("Update", given.update), scale=given.scale,
        decay_per="none" if log is None else "token_channel" if given.per_channel else "token_head",
    )  # fmt: skip
    if given.skip is not None:
        more = (by_head * given.skip[:, None]).flatten(-2)
        read = read + more.masked_fill((given.position < 0)[..., None], 0.0)
    return read.to(v.dtype).contiguous(), state.float()
