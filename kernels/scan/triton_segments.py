"""Long rows of tokens cut into segments that run side by side, and the states that pass between these.

A segment is first walked for what it alone leaves in the state; the states before each follow from one short
recurrence; then it is walked again from its own. The second walk pays where there are too few heads to fill the GPU.
"""

# pyright: basic
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..gpu.op import launchable
from ..gpu.sizes import ceil_div

PROGRAMS = 264
"""Two for each of the 132 multiprocessors of an H100."""
SHORTEST = 8
"""Chunks of a segment; shorter ones spend their time on states."""
BLOCK = 1024


@triton.jit
def _pass_states(
    p_states, p_log_decay, p_initial, p_final, segments, heads, size, value_dim,
    PER_CHANNEL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What each segment left `[B, S, H, Dk*Dv]` becomes the state before it. One head of one row, BLOCK elements."""
    i_b, i_h = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    o_x = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m_x = o_x < size
    b_s = tl.zeros((BLOCK,), tl.float32)
    if p_initial is not None:
        b_s = tl.load(p_initial + (i_b * heads + i_h) * size + o_x, mask=m_x, other=0.0).to(tl.float32)
    for i in range(segments):
        i_head = (i_b * segments + i) * heads + i_h
        if PER_CHANNEL:
            p_log = p_log_decay + i_head * (size // value_dim) + o_x // value_dim
            b_log = tl.load(p_log, mask=m_x, other=0.0)
        else:
            b_log = tl.load(p_log_decay + i_head)
        b_left = tl.load(p_states + i_head * size + o_x, mask=m_x, other=0.0)
        tl.store(p_states + i_head * size + o_x, b_s, mask=m_x)
        b_s = b_s * tl.exp(b_log) + b_left
    tl.store(p_final + (i_b * heads + i_h) * size + o_x, b_s, mask=m_x)


def pass_states(states: Tensor, log_decay: Tensor, initial: Tensor | None, final: Tensor) -> None:
    """Writes over `states` `[B, S, H, Dk, Dv]` float32, what each segment leaves, the state before each; and `final`.

    log_decay `[B, S, H]` or `[B, S, H, Dk]` float32: of a whole segment. initial, final `[B, H, Dk, Dv]`.
    """
    batch, segments, heads, key_dim, value_dim = states.shape
    if log_decay.dim() == 4:  # then heads differ in nothing, and small ones share a program
        heads, key_dim = 1, heads * key_dim
    size = key_dim * value_dim
    launchable(_pass_states)[(ceil_div(size, BLOCK), batch * heads)](
        states, log_decay, initial, final, segments, heads, size, value_dim, PER_CHANNEL=log_decay.dim() == 4,
        BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip


def segment_length(tokens: int, programs: int, chunk: int, enough: int = PROGRAMS) -> int:
    """Tokens of a segment, a multiple of `chunk`, where one segment would be `programs` programs of `enough`."""
    chunks = ceil_div(tokens, chunk)
    if programs >= enough // 2:
        return chunks * chunk
    segments = max(1, min(chunks // SHORTEST, ceil_div(enough, programs)))
    return ceil_div(chunks, segments) * chunk
