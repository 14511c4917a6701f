"""Operands of a scan in chunks as its kernels address them: rows at one stride, and of a span of tokens a view."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..gpu.rows import optional_rows, token_rows


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


def operands(
    v: Tensor, k: Tensor, q: Tensor, position: Tensor, log: Tensor | None, dt: Tensor | None, beta: Tensor | None,
    erase: Tensor | None, write: Tensor | None, skip: Tensor | None, *, key_dim: int, value_dim: int, update: str,
    per_channel: bool, scale: float,
) -> Operands:  # fmt: skip
    """Of the whole row, as the operator takes them; copies where rows have no common stride."""
    (batch, tokens), heads, groups = position.shape, v.shape[-1] // value_dim, k.shape[-1] // key_dim
    (v, v_row), (k, k_row), (q, q_row) = token_rows(v), token_rows(k), token_rows(q)
    (beta, beta_row), (erase, erase_row), (write, write_row) = (optional_rows(x) for x in (beta, erase, write))
    log, log_row = optional_rows(log) if per_channel else (None if log is None else log.contiguous(), 0)
    return Operands(
        v=v, k=k, q=q, position=position.contiguous(), log=log, dt=None if dt is None else dt.contiguous(), beta=beta,
        erase=erase, write=write, skip=skip, v_row=v_row, k_row=k_row, q_row=q_row, log_row=log_row,
        beta_row=beta_row, erase_row=erase_row, write_row=write_row, tokens=tokens, count=tokens, batch=batch,
        heads=heads, groups=groups, key_dim=key_dim, value_dim=value_dim, update=update, per_channel=per_channel,
        scale=scale,
    )  # fmt: skip
