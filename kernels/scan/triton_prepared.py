"""What chunks of a scan in Triton give each other, made for all of them side by side before any state is known."""

# pyright: basic
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..gpu.op import launchable
from ..gpu.rows import optional_rows, token_rows
from ..gpu.sizes import ceil_div, power_of_2
from .triton_between import solved
from .triton_inside import inside, invert

CHUNK = 64
SUB = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What `inside`, `invert` and `solved` leave: rows of heads `[B, H, tokens to a multiple of chunk, …]`."""

    chunk: int
    padded: int
    """Tokens, to a multiple of the chunk."""
    scores: Tensor
    reads: Tensor
    writes: Tensor
    whole: Tensor
    inverse: Tensor | None
    """`(I + A)^-1`, float32; with what follows absent where nothing is solved."""
    solves: Tensor | None
    w: Tensor | None
    u: Tensor | None
    scores_v: Tensor | None
    """With the two below only of update erase_write."""
    feed: Tensor | None
    writes_v: Tensor | None


def prepare(
    v: Tensor, k: Tensor, q: Tensor, position: Tensor, log: Tensor | None, dt: Tensor | None, beta: Tensor | None,
    erase: Tensor | None, write: Tensor | None, *, key_dim: int, value_dim: int, update: str, per_channel: bool,
) -> Prepared:  # fmt: skip
    """Three launches; memory of `2 * C + 3 * Dk` elements a token and head, of `3 * C + 4 * Dk + Dv` where u is solved.

    At least one token. Operands as the operator takes them.
    """
    (batch, tokens), heads, groups = position.shape, v.shape[-1] // value_dim, k.shape[-1] // key_dim
    (v, v_row), (k, k_row), (q, q_row), position = token_rows(v), token_rows(k), token_rows(q), position.contiguous()
    (beta, beta_row), (erase, erase_row), (write, write_row) = (optional_rows(x) for x in (beta, erase, write))
    log, log_row = optional_rows(log) if per_channel else (log, 0)
    chunk = min(CHUNK, max(SUB, power_of_2(tokens)))
    padded = ceil_div(tokens, chunk) * chunk
    block_k, columns = max(16, power_of_2(key_dim)), max(16, power_of_2(value_dim))

    def scratch(width: int, dtype: torch.dtype = v.dtype) -> Tensor:
        return v.new_empty((batch, heads, padded, width), dtype=dtype)

    is_solved, is_erased = update != "add", update == "erase_write"
    scores, reads, writes = scratch(chunk), scratch(key_dim), scratch(key_dim)
    system = scratch(chunk, torch.float32) if is_solved else None
    solves, w, u = (scratch(width) if is_solved else None for width in (key_dim, key_dim, value_dim))
    scores_v, feed, writes_v = (scratch(width) if is_erased else None for width in (chunk, chunk, key_dim))
    whole = v.new_empty(batch, heads, padded // chunk, key_dim if per_channel else 1, dtype=torch.float32)
    sizes = {"UPDATE": update, "CHUNK": chunk, "BLOCK_K": block_k}
    launchable(inside)[(padded // SUB, batch * heads)](
        k, q, position, log, dt, beta, erase, write, scores, system, scores_v, feed, reads, solves, writes, writes_v,
        whole, tokens, padded, heads, heads // groups, key_dim, k_row, q_row, log_row, beta_row, erase_row, write_row,
        PER_CHANNEL=per_channel, num_warps=8 if block_k > 128 else 4, **sizes,
    )  # fmt: skip
    if is_solved:
        launchable(invert)[(padded // chunk, batch * heads)](system, padded, CHUNK=chunk, num_warps=2)
        launchable(solved)[(padded // chunk, batch * heads)](
            system, solves, feed, v, position, beta, dt, w, u, tokens, padded, heads, key_dim, value_dim, v_row,
            beta_row, BLOCK_V=min(64, columns), num_warps=4, **sizes,
        )  # fmt: skip
    return Prepared(
        chunk=chunk, padded=padded, scores=scores, reads=reads, writes=writes, whole=whole, inverse=system,
        solves=solves, w=w, u=u, scores_v=scores_v, feed=feed, writes_v=writes_v,
    )  # fmt: skip
