"""What chunks of a scan in Triton give each other, made for all of them side by side before any state is known."""

# pyright: basic
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..gpu.op import launchable
from ..gpu.sizes import ceil_div, power_of_2
from .triton_between import solved
from .triton_cut import SUB
from .triton_inside import inside, invert
from .triton_operands import Operands


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What `inside`, `invert` and `solved` leave of a span: rows of heads `[B, H, padded, …]`."""

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


def prepare(given: Operands, chunk: int) -> Prepared:
    """Three launches; memory of `2 * C + 3 * Dk` elements a token and head, of `3 * C + 4 * Dk + Dv` where u is solved.

    At least one token.
    """
    padded, side = ceil_div(given.count, chunk) * chunk, given.batch * given.heads
    key_dim, value_dim = given.key_dim, given.value_dim
    block_k, columns = max(16, power_of_2(key_dim)), max(16, power_of_2(value_dim))

    def scratch(width: int, dtype: torch.dtype = given.v.dtype) -> Tensor:
        return given.v.new_empty((given.batch, given.heads, padded, width), dtype=dtype)

    scores, reads, writes = scratch(chunk), scratch(key_dim), scratch(key_dim)
    system = scratch(chunk, torch.float32) if given.is_solved else None
    solves, w, u = (scratch(width) if given.is_solved else None for width in (key_dim, key_dim, value_dim))
    scores_v, feed, writes_v = (scratch(width) if given.is_erased else None for width in (chunk, chunk, key_dim))
    width = key_dim if given.per_channel else 1
    whole = given.v.new_empty(given.batch, given.heads, padded // chunk, width, dtype=torch.float32)
    sizes = {"UPDATE": given.update, "CHUNK": chunk, "BLOCK_K": block_k}
    launchable(inside)[(padded // SUB, side)](
        given.k, given.q, given.position, given.log, given.dt, given.beta, given.erase, given.write, scores, system,
        scores_v, feed, reads, solves, writes, writes_v, whole, given.tokens, given.count, padded, given.heads,
        given.heads // given.groups, key_dim, given.k_row, given.q_row, given.log_row, given.beta_row, given.erase_row,
        given.write_row, PER_CHANNEL=given.per_channel, num_warps=8 if block_k > 128 else 4, **sizes,
    )  # fmt: skip
    if given.is_solved:
        launchable(invert)[(padded // chunk, side)](system, padded, CHUNK=chunk, num_warps=2)
        launchable(solved)[(padded // chunk, side)](
            system, solves, feed, given.v, given.position, given.beta, given.dt, w, u, given.tokens, given.count,
            padded, given.heads, key_dim, value_dim, given.v_row, given.beta_row, BLOCK_V=min(64, columns),
            num_warps=4, **sizes,
        )  # fmt: skip
    return Prepared(
        chunk=chunk, padded=padded, scores=scores, reads=reads, writes=writes, whole=whole, inverse=system,
        solves=solves, w=w, u=u, scores_v=scores_v, feed=feed, writes_v=writes_v,
    )  # fmt: skip
