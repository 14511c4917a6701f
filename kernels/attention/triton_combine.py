"""Joins what programs made of their shares of the keys, and says how many shares there are (flash-decoding).

A share gives `part`, the values weighed by its own softmax, and `lse`, the base-2 logarithm of its softmax's sum
(Dao et al. 2023, "Flash-Decoding for long-context inference").
"""

# pyright: basic
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..gpu.op import launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..gpu.target import multiprocessors

MOST_SHARES = 256
CHUNK = 16
"""Shares that are read at a time."""


@triton.jit
def _combine(
    p_part, p_lse, p_out, heads, tokens, shares,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """One row of one head: its shares' parts, each by its share of the whole sum."""
    i_row = tl.program_id(0).to(tl.int64)
    p_lse += i_row * shares
    o_share = tl.arange(0, BLOCK_S)
    b_all = tl.load(p_lse + o_share, mask=o_share < shares, other=float("-inf"))
    top = tl.max(b_all, 0)
    top = tl.where(top == float("-inf"), 0.0, top)
    total = tl.sum(tl.exp2(b_all - top), 0)
    o_d = tl.arange(0, BLOCK_D)
    b_sum = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(0, shares, CHUNK):
        o_row = start + tl.arange(0, CHUNK)
        b_lse = tl.load(p_lse + o_row, mask=o_row < shares, other=float("-inf"))
        m_part = (b_lse > float("-inf"))[:, None] & (o_d < WIDTH)[None, :]
        p_rows = p_part + (i_row * shares + o_row)[:, None] * WIDTH + o_d[None, :]
        b_part = tl.load(p_rows, mask=m_part, other=0.0)
        b_sum += tl.sum(b_part * tl.exp2(b_lse - top)[:, None], 0)
    b_sum = b_sum / tl.where(total > 0.0, total, 1.0)
    i_token, i_head = i_row % tokens, i_row // tokens
    i_batch, i_head = i_head // heads, i_head % heads
    p_out += ((i_batch * tokens + i_token) * heads + i_head) * WIDTH
    tl.store(p_out + o_d, b_sum.to(p_out.dtype.element_ty), mask=o_d < WIDTH)


def combine(part: Tensor, lse: Tensor, out: Tensor, heads: int) -> None:
    """part `[B, H, T, shares, D]` and lse `[B, H, T, shares]` float32 -> out `[B, T, H*D]`.

    What lies in the part of a share whose lse is -inf is not read; a row of none but such shares gives zeros. Bytes:
    those of `part`, once.
    """
    width, shares, tokens = part.shape[-1], lse.shape[-1], out.shape[1]
    launchable(_combine)[(lse.numel() // shares,)](
        part, lse, out, heads, tokens, shares, WIDTH=width, BLOCK_D=power_of_2(width), BLOCK_S=power_of_2(shares),
        CHUNK=min(CHUNK, power_of_2(shares)), num_warps=4,
    )  # fmt: skip


def shares_of(blocks: int, programs: int, per_multiprocessor: int, device: int | None) -> int:
    """Into how many shares the keys are cut, so that all multiprocessors are busy.

    blocks: of keys that there may be; programs: those that run for each share. At least two blocks make a share, since
    each one writes a part. Of equally few waves, the fewest shares; more only while a last wave stays a sixth empty.
    """
    places = multiprocessors(device) * per_multiprocessor
    most = max(1, min(blocks // 2, MOST_SHARES, 4 * ceil_div(places, programs)))
    share = max(1, min(most, places // programs))
    while share < most and 6 * programs * share < 5 * places * ceil_div(programs * share, places):
        share += 1
    return share
