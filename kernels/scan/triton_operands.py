"""Operands of a scan in chunks as its kernels address them: rows at one stride, and of a span of tokens a view."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..gpu.rows import optional_rows, token_rows
from .operators import DeltaScan


@dataclass(frozen=True, slots=True, kw_only=True)
class Operands:
    """Of a span of the row: what begins at its first of `count` tokens, with batch rows `tokens` apart."""

    v: Tensor
    k: Tensor
    q: Tensor
    position: Tensor
    log: Tensor | None
    """`[B, T, H*Dk]` where `per_channel`, else `[B, H, T]` float32."""
    dt: Tensor | None
    """`[B, H, T]` float32."""
    beta: Tensor | None
    erase: Tensor | None
    write: Tensor | None
    skip: Tensor | None
    v_row: int
    k_row: int
    q_row: int
    log_row: int
    beta_row: int
    erase_row: int
    write_row: int
    tokens: int
    count: int
    batch: int
    heads: int
    groups: int
    key_dim: int
    value_dim: int
    update: str
    per_channel: bool
    scale: float

    @property
    def is_solved(self) -> bool:
        """What is written depends on the state."""
        return self.update != "add"

    @property
    def is_erased(self) -> bool:
        """Vectors of their own erase and write."""
        return self.update == "erase_write"

    def part(self, begin: int, count: int) -> Operands:
        """The `count` tokens from `begin`."""

        def rows(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[:, begin:]

        return replace(
            self,
            v=self.v[:, begin:],
            k=self.k[:, begin:],
            q=self.q[:, begin:],
            position=self.position[:, begin:],
            log=rows(self.log) if self.per_channel or self.log is None else self.log[..., begin:],
            dt=None if self.dt is None else self.dt[..., begin:],
            beta=rows(self.beta),
            erase=rows(self.erase),
            write=rows(self.write),
            count=count,
        )


def operands(given: DeltaScan) -> Operands:
    """Of the whole row, as the operator takes them; copies where rows have no common stride."""
    (batch, tokens), heads = given.position.shape, given.state_shape[1]
    (v, v_row), (k, k_row), (q, q_row) = token_rows(given.v), token_rows(given.k), token_rows(given.q)
    (beta, beta_row), (erase, erase_row) = optional_rows(given.beta), optional_rows(given.erase)
    write, write_row = optional_rows(given.write)
    log, log_row = optional_rows(given.log) if given.per_channel else (_dense(given.log), 0)
    return Operands(
        v=v, k=k, q=q, position=given.position.contiguous(), log=log,
        dt=_dense(given.dt), beta=beta, erase=erase, write=write, skip=given.skip,
        v_row=v_row, k_row=k_row, q_row=q_row, log_row=log_row, beta_row=beta_row, erase_row=erase_row,
        write_row=write_row, tokens=tokens, count=tokens, batch=batch, heads=heads,
        groups=k.shape[-1] // given.key_dim, key_dim=given.key_dim, value_dim=given.value_dim, update=given.update,
        per_channel=given.per_channel, scale=given.scale,
    )  # fmt: skip


def _dense(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()
