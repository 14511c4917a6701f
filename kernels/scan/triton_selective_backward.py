"""Gradients of the scan of channels with small states in Triton: states made again from the start of each segment.

Segments of 64 tokens run side by side, from the state before each and its gradient after it. A program keeps the state
at every fourth token, walks back through four at a time, their states in registers, and sums over tokens what the
decay and the skip get. The floor is v, dt and the output's gradient read, and two gradients written; the states kept
are 32 bytes a token and channel more at 16 states. Three exponentials for each state would take 96 clocks a token of 32
channels; what binds it are the instructions, 610 of a warp, 153 clocks. Eight tokens at a time would keep half as much
but spill in the loop, for 660.
"""

# pyright: basic
from __future__ import annotations

from typing import TypeAlias

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.op import gpu_op, launchable
from ..gpu.rows import optional_rows, token_rows
from ..gpu.sizes import ceil_div, power_of_2
from ..gpu.tuning import Config, Key, Tunable
from . import reference
from .operators import SelectiveScan
from .triton_segments import pass_states

Seven: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
OF = ("v", "k", "q", "decay", "dt", "skip", "initial")
"""The operands that have gradients."""
SEGMENT = 64
WALKED = 32
"""Channels of a program that keeps nothing but their states."""
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _rates(p_decay, o_h, m_h, o_n, m_n, key_dim, PER_STATE: tl.constexpr, IS_A_LOG: tl.constexpr):
    """The log decay for a step of 1, `[N, H]` float32."""
    m_s = m_n[:, None] & m_h[None, :]
    if PER_STATE:
        b_rate = tl.load(p_decay + o_h[None, :] * key_dim + o_n[:, None], mask=m_s, other=0.0).to(tl.float32)
    else:
        b_rate = tl.where(m_s, tl.load(p_decay + o_h, mask=m_h, other=0.0).to(tl.float32)[None, :], 0.0)
    if IS_A_LOG:
        b_rate = -tl.exp(b_rate)
    return b_rate


@triton.jit
def _token(p_v, p_k, p_dt, i_row, keep, o_h, m_h, o_n, m_n, v_row, k_row, dt_row):
    """v, dt `[H]` and k `[N]` of a token in float32: 0 at padding."""
    b_v = tl.load(p_v + i_row * v_row + o_h, mask=m_h & keep, other=0.0).to(tl.float32)
    b_k = tl.load(p_k + i_row * k_row + o_n, mask=m_n & keep, other=0.0).to(tl.float32)
    b_dt = tl.where(m_h & keep, 1.0, 0.0)
    if p_dt is not None:
        b_dt = tl.load(p_dt + i_row * dt_row + o_h, mask=m_h & keep, other=0.0).to(tl.float32)
    return b_v, b_dt, b_k


@triton.jit
def _walk(
    p_x, p_y, p_position, p_decay, p_dt, p_left, p_whole,
    tokens, segments, channels, key_dim, x_row, y_row, dt_row, scale,
    BACKWARDS: tl.constexpr, PER_STATE: tl.constexpr, IS_A_LOG: tl.constexpr, SEGMENT: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """What a segment leaves in the state, `[B, S, H, N]`, and its log decay: x is k and y is v.

    BACKWARDS, in the gradient of the state before it, segments from the row's end: x is q and y the output's gradient.
    """
    blocks = tl.cdiv(channels, BLOCK_H)
    i_bs = tl.program_id(0) // blocks
    i_b, i_s = (i_bs // segments).to(tl.int64), i_bs % segments
    o_n, o_h = tl.arange(0, BLOCK_N), (tl.program_id(0) % blocks) * BLOCK_H + tl.arange(0, BLOCK_H)
    m_n, m_h = o_n < key_dim, o_h < channels
    b_rate = _rates(p_decay, o_h, m_h, o_n, m_n, key_dim, PER_STATE, IS_A_LOG)
    b_s, b_time = tl.zeros((BLOCK_N, BLOCK_H), tl.float32), tl.zeros((BLOCK_H,), tl.float32)
    count = tl.minimum(SEGMENT, tokens - i_s * SEGMENT)
    for n in range(count):
        i_row = i_b * tokens + i_s * SEGMENT + (count - 1 - n if BACKWARDS else n)
        keep = tl.load(p_position + i_row) >= 0
        b_y, b_dt, b_x = _token(p_y, p_x, p_dt, i_row, keep, o_h, m_h, o_n, m_n, y_row, x_row, dt_row)
        b_decay = tl.exp2(b_rate * LOG2_E * b_dt[None, :])
        if BACKWARDS:
            b_s = (b_s + b_x[:, None] * (b_y * scale)[None, :]) * b_decay
        else:
            b_s = b_s * b_decay + b_x[:, None] * (b_y * b_dt)[None, :]
        b_time += b_dt
    i_at = segments - 1 - i_s if BACKWARDS else i_s
    o_s = ((i_b * segments + i_at) * channels + o_h[None, :]) * key_dim + o_n[:, None]
    m_s = m_n[:, None] & m_h[None, :]
    tl.store(p_left + o_s, b_s, mask=m_s)
    tl.store(p_whole + o_s, b_rate * b_time[None, :], mask=m_s)


@triton.jit
def _segment(
    p_v, p_k, p_q, p_position, p_decay, p_dt, p_skip, p_grad, p_starts, p_slopes, p_kept,
    p_grad_v, p_grad_k, p_grad_q, p_grad_rate, p_grad_dt, p_grad_skip,
    tokens, segments, batch, channels, key_dim, v_row, k_row, q_row, dt_row, grad_row, scale,
    PER_STATE: tl.constexpr, IS_A_LOG: tl.constexpr, SEGMENT: tl.constexpr, BACK: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_H: tl.constexpr,
):  # fmt: skip
    """BLOCK_H channels of one segment. p_starts as `_walk` and the passing leave it, p_slopes from the row's end;
    p_kept `[B, S, SEGMENT / BACK, H, N]` is scratch. Gradients of k and q for each block, `[P, B, T, N]`, of the rate
    `[B, S, H, N]`, of skip `[B, S, H]`."""
    blocks = tl.cdiv(channels, BLOCK_H)
    i_block, i_bs = tl.program_id(0) % blocks, (tl.program_id(0) // blocks).to(tl.int64)
    i_b, i_s = i_bs // segments, (tl.program_id(0) // blocks) % segments
    o_n, o_h = tl.arange(0, BLOCK_N), i_block * BLOCK_H + tl.arange(0, BLOCK_H)
    m_n, m_h = o_n < key_dim, o_h < channels
    m_s = m_n[:, None] & m_h[None, :]
    o_s = o_h[None, :] * key_dim + o_n[:, None]
    size = channels * key_dim
    b_rate2 = _rates(p_decay, o_h, m_h, o_n, m_n, key_dim, PER_STATE, IS_A_LOG) * LOG2_E
    begin, count = i_s * SEGMENT, tl.minimum(SEGMENT, tokens - i_s * SEGMENT)
    b_s = tl.load(p_starts + i_bs * size + o_s, mask=m_s, other=0.0)
    for n in range(count):
        if n % BACK == 0:
            tl.store(p_kept + (i_bs * (SEGMENT // BACK) + n // BACK) * size + o_s, b_s, mask=m_s)
        i_row = i_b * tokens + begin + n
        keep = tl.load(p_position + i_row) >= 0
        b_v, b_dt, b_k = _token(p_v, p_k, p_dt, i_row, keep, o_h, m_h, o_n, m_n, v_row, k_row, dt_row)
        b_s = b_s * tl.exp2(b_rate2 * b_dt[None, :]) + b_k[:, None] * (b_v * b_dt)[None, :]
    tl.debug_barrier()

    b_slope = tl.load(p_slopes + (i_b * segments + segments - 1 - i_s) * size + o_s, mask=m_s, other=0.0)
    b_skip = tl.zeros((BLOCK_H,), tl.float32)
    if p_skip is not None:
        b_skip = tl.load(p_skip + o_h, mask=m_h, other=0.0).to(tl.float32)
    b_grad_rate, b_grad_skip = tl.zeros((BLOCK_N, BLOCK_H), tl.float32), tl.zeros((BLOCK_H,), tl.float32)
    blocks = tl.cdiv(count, BACK)
    for n in range(blocks):
        i = blocks - 1 - n
        b_s = tl.load(p_kept + (i_bs * (SEGMENT // BACK) + i) * size + o_s, mask=m_s, other=0.0)
        states = (b_s,)
        for j in tl.static_range(BACK):
            i_t = i * BACK + j
            i_row = i_b * tokens + begin + i_t
            keep = tl.load(p_position + i_row, mask=i_t < count, other=-1) >= 0
            b_v, b_dt, b_k = _token(p_v, p_k, p_dt, i_row, keep, o_h, m_h, o_n, m_n, v_row, k_row, dt_row)
            b_s = b_s * tl.exp2(b_rate2 * b_dt[None, :]) + b_k[:, None] * (b_v * b_dt)[None, :]
            states = states + (b_s,)  # noqa: RUF005 -- Triton's tuples have no other way
        for j in tl.static_range(BACK):
            i_t = i * BACK + BACK - 1 - j
            i_row = i_b * tokens + begin + i_t
            m_in = i_t < count
            keep = tl.load(p_position + i_row, mask=m_in, other=-1) >= 0
            b_v, b_dt, b_k = _token(p_v, p_k, p_dt, i_row, keep, o_h, m_h, o_n, m_n, v_row, k_row, dt_row)
            b_q = tl.load(p_q + i_row * q_row + o_n, mask=m_n & keep, other=0.0).to(tl.float32)
            b_grad = tl.load(p_grad + i_row * grad_row + o_h, mask=m_h & keep, other=0.0).to(tl.float32)
            b_slope += b_q[:, None] * (b_grad * scale)[None, :]
            b_written = tl.sum(b_slope * b_k[:, None], 0)
            b_grad_v = b_written * b_dt + b_skip * b_grad
            tl.store(p_grad_v + i_row * channels + o_h, b_grad_v.to(p_grad_v.dtype.element_ty), mask=m_h & m_in)
            o_block = (i_block * batch + i_b) * tokens + begin + i_t
            b_grad_k = tl.sum(b_slope * (b_v * b_dt)[None, :], 1)
            tl.store(p_grad_k + o_block * key_dim + o_n, b_grad_k, mask=m_n & m_in)
            b_grad_q = tl.sum(states[BACK - j] * (b_grad * scale)[None, :], 1)
            tl.store(p_grad_q + o_block * key_dim + o_n, b_grad_q, mask=m_n & m_in)
            b_slope *= tl.exp2(b_rate2 * b_dt[None, :])
            b_exponent = b_slope * states[BACK - 1 - j]
            b_grad_rate += b_exponent * b_dt[None, :]
            b_grad_skip += b_grad * b_v
            if p_dt is not None:
                b_grad_dt = b_written * b_v + tl.sum(b_exponent * b_rate2, 0) / LOG2_E
                b_grad_dt = tl.where(keep, b_grad_dt, 0.0).to(p_grad_dt.dtype.element_ty)
                tl.store(p_grad_dt + i_row * channels + o_h, b_grad_dt, mask=m_h & m_in)
    tl.store(p_grad_rate + i_bs * size + o_s, b_grad_rate, mask=m_s)
    tl.store(p_grad_skip + i_bs * channels + o_h, b_grad_skip, mask=m_h)


def _rule(key: Key) -> Config:
    """A thread has sixteen states: those of five tokens and the sums fit its registers, those of nine do not. Where a
    channel has more than sixteen, warps share them, and addresses leave room for eight a thread."""
    states = int(key["key_dim"])
    return {"BLOCK_H": 32 if states <= 16 else 16, "BACK": 4, "num_warps": max(1, states // 16)}


def _space(key: Key) -> tuple[Config, ...]:
    warps = max(1, int(key["key_dim"]) // 16)
    return tuple(
        {"BLOCK_H": channels, "BACK": back, "num_warps": warps}
        for channels, back in ((32, 4), (16, 4), (32, 8), (16, 8))
    )


SELECTIVE_BACKWARD = Tunable(name="scan_selective_backward", rule=_rule, space=_space)
TUNABLES = (SELECTIVE_BACKWARD,)


def _launch(grad: Tensor, grad_final: Tensor | None, given: SelectiveScan) -> Seven:
    v, k, q, position, decay, dt, skip, initial, decay_per, decay_form, scale = given
    made = _fake(grad, grad_final, given)
    grad_v, grad_k, grad_q, grad_decay, grad_dt, grad_skip, grad_initial = made
    if not v.numel():
        last = grad_initial.zero_() if grad_final is None else grad_initial.copy_(grad_final)
        return *(value.zero_() for value in made[:6]), last  # type: ignore[return-value]
    (batch, tokens), channels, key_dim = position.shape, v.shape[-1], k.shape[-1]
    (v, v_row), (k, k_row), (q, q_row), (dt, dt_row) = token_rows(v), token_rows(k), token_rows(q), optional_rows(dt)
    (grad, grad_row), position, rate = token_rows(grad), position.contiguous(), decay.contiguous()
    config, segments = SELECTIVE_BACKWARD.config({"key_dim": power_of_2(key_dim)}), ceil_div(tokens, SEGMENT)
    back, blocks = config["BACK"], ceil_div(channels, config["BLOCK_H"])
    starts = v.new_empty((batch, segments, channels, key_dim, 1), dtype=torch.float32)
    slopes, whole = torch.empty_like(starts), torch.empty_like(starts[..., 0])
    kinds = {
        "PER_STATE": decay_per == "state", "IS_A_LOG": decay_form == "A_log", "SEGMENT": SEGMENT,
        "BLOCK_N": power_of_2(key_dim),
    }  # fmt: skip
    for x, x_row, y, y_row, left, first, last in (
        (k, k_row, v, v_row, starts, initial, torch.empty_like(grad_initial)),
        (q, q_row, grad, grad_row, slopes, grad_final, grad_initial),
    ):
        launchable(_walk)[(batch * segments * ceil_div(channels, WALKED),)](
            x, y, position, rate, dt, left, whole, tokens, segments, channels, key_dim, x_row, y_row, dt_row, scale,
            BACKWARDS=left is slopes, BLOCK_H=WALKED, num_warps=1, **kinds,
        )  # fmt: skip
        pass_states(left, whole, None if first is None else first.contiguous(), last)
    kept = v.new_empty((batch, segments, SEGMENT // back, channels, key_dim), dtype=torch.float32)
    sum_k, sum_q = (v.new_empty((blocks, *k.shape), dtype=torch.float32) for _ in range(2))
    sum_skip = v.new_empty((batch, segments, channels), dtype=torch.float32)
    launchable(_segment)[(batch * segments * blocks,)](
        v, k, q, position, rate, dt, skip, grad, starts, slopes, kept, grad_v, sum_k, sum_q, whole, grad_dt, sum_skip,
        tokens, segments, batch, channels, key_dim, v_row, k_row, q_row, dt_row, grad_row, scale, **kinds, **config,
    )  # fmt: skip
    grad_k.copy_(sum_k.sum(0))
    grad_q.copy_(sum_q.sum(0))
    grad_rate = whole.sum((0, 1))
    grad_rate = grad_rate if decay_per == "state" else grad_rate.sum(-1)
    grad_decay.copy_(-decay.float().exp() * grad_rate if decay_form == "A_log" else grad_rate)
    if skip is not None:
        grad_skip.copy_(sum_skip.sum((0, 1)))
    return grad_v, grad_k, grad_q, grad_decay, grad_dt, grad_skip, grad_initial


def _fake(grad: Tensor, grad_final: Tensor | None, given: SelectiveScan) -> Seven:
    """Of v, k, q, decay, dt, skip and initial; empty where the operand is absent, but for the last."""
    v = given.v
    grad_v, grad_k, grad_q, grad_decay = (
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in (v, given.k, given.q, given.decay)
    )
    grad_dt, grad_skip = (v.new_empty(0) if x is None else x.new_empty(x.shape) for x in (given.dt, given.skip))
    final = v.new_empty(given.state_shape, dtype=torch.float32)
    return grad_v, grad_k, grad_q, grad_decay, grad_dt, grad_skip, final


def _reference(grad: Tensor, grad_final: Tensor | None, given: SelectiveScan) -> Seven:
    made = _fake(grad, grad_final, given)
    begin = torch.zeros_like(made[6]) if given.initial is None else given.initial
    operands = given._replace(initial=begin)._asdict()
    leaves = {name: operands[name].float() for name in OF if operands[name] is not None}

    def run(leaves: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        fields = given._replace(**leaves)._asdict()
        held = (fields.pop("initial").double(),)  # another tensor than the one that is read, since it is written
        out, _ = reference.scan(**fields, state=held, key_dim=given.k.shape[-1], value_dim=1)
        return out, held[0]

    last = torch.zeros_like(begin) if grad_final is None else grad_final
    (found,) = torch.func.vjp(run, leaves)[1]((grad.float(), last.double()))
    for name, value in zip(OF, made, strict=True):
        if name in found:
            value.copy_(found[name])
    return made


scan_selective_backward = gpu_op("scan_selective_backward", _launch, fake=_fake, reference=_reference)
