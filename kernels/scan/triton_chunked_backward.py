"""Gradients of the scan in chunks, one factor a head, in Triton: states made again, then all chunks side by side.

Two walks leave the state before each chunk and its gradient after it; they are walks of the same kind, with k and v,
and backwards with q and the output's gradient. Then each chunk is on its own: values by head, and keys by blocks of
their elements, summed over heads that share them. A log decay's gradient is the sum of all products that reach over its
token, a difference of float64 sums, so that strong decays keep their digits. Of states and their gradients, kept in
bfloat16 or float32, and of the gradients of pairs there are `2 * Dk * Dv / C + C` elements a token and head, of which
the first are read once and a half and the last once for each block of keys.
"""

# pyright: basic
from __future__ import annotations

from typing import TypeAlias

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.op import gpu_op, launchable
from ..gpu.rows import token_rows
from ..gpu.sizes import ceil_div, power_of_2
from .operators import ChunkScan, by_reference
from .triton_chunked import CHUNK, FORGOTTEN, decay_after, decay_between, state_product, summed

Seven: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
OF = ("v", "k", "q", "log", "dt", "skip", "initial")
"""The operands that have gradients."""
KEYS = 32
"""Elements of a key whose gradients a program makes at once."""
PROGRAMS = 264
"""Two for each of the 132 multiprocessors of an H100."""


@triton.jit
def _states(
    p_x, p_y, p_position, p_log, p_dt, p_begin, p_states, p_end,
    tokens, chunks, heads, shared, key_dim, value_dim, x_row, y_row, scale,
    BACKWARDS: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """A block of one head's state before each chunk, `[B, H, N, Dk, Dv]`: x is k and y is v.

    BACKWARDS, the gradient after each chunk, from the row's end: x is q and y the output's gradient.
    """
    i_bh = tl.program_id(2).to(tl.int64)
    i_b, i_h = i_bh // heads, tl.program_id(2) % heads
    o_c = tl.arange(0, CHUNK)
    o_k, o_v = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K), tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    m_k, m_v = o_k < key_dim, o_v < value_dim
    m_s = m_k[:, None] & m_v[None, :]
    o_s = o_k[:, None] * value_dim + o_v[None, :]
    size = key_dim * value_dim
    b_s = tl.zeros((BLOCK_K, BLOCK_V), tl.float32)
    if p_begin is not None:
        b_s = tl.load(p_begin + i_bh * size + o_s, mask=m_s, other=0.0).to(tl.float32)
    for n in range(chunks):
        i = chunks - 1 - n if BACKWARDS else n
        o_t = i * CHUNK + o_c
        m_in = o_t < tokens
        m_t = tl.load(p_position + i_b * tokens + o_t, mask=m_in, other=-1) >= 0
        o_row = (i_b * tokens + o_t)[:, None]
        p_xt = p_x + o_row * x_row + (i_h // shared) * key_dim + o_k[None, :]
        b_x = tl.load(p_xt, mask=m_t[:, None] & m_k[None, :], other=0.0)
        p_yt = p_y + o_row * y_row + i_h * value_dim + o_v[None, :]
        b_y = tl.load(p_yt, mask=m_t[:, None] & m_v[None, :], other=0.0)
        b_log = tl.zeros((CHUNK,), tl.float32)
        if p_log is not None:
            b_log = tl.load(p_log + i_bh * tokens + o_t, mask=m_in, other=0.0)
        if BACKWARDS:
            b_weight = tl.exp(summed(b_log).to(tl.float32)) * scale
        else:
            b_weight = decay_after(summed(b_log), CHUNK)
            if p_dt is not None:
                b_weight *= tl.load(p_dt + i_bh * tokens + o_t, mask=m_in, other=0.0)
        p_to = p_states + (i_bh * chunks + i) * size + o_s
        tl.store(p_to, b_s.to(p_states.dtype.element_ty), mask=m_s)
        b_weighted = (b_y.to(tl.float32) * b_weight[:, None]).to(b_y.dtype)
        b_s = b_s * tl.exp(tl.sum(b_log, 0)) + tl.dot(tl.trans(b_x.to(b_y.dtype)), b_weighted, input_precision="ieee")
    tl.store(p_end + i_bh * size + o_s, b_s, mask=m_s)


@triton.jit
def _rates(p_log, p_dt, o_rate, m_in, CHUNK: tl.constexpr):
    """Log decays and dt of a chunk, `[C]` float32."""
    b_log, b_dt = tl.zeros((CHUNK,), tl.float32), tl.full((CHUNK,), 1.0, tl.float32)
    if p_log is not None:
        b_log = tl.load(p_log + o_rate, mask=m_in, other=0.0)
    if p_dt is not None:
        b_dt = tl.load(p_dt + o_rate, mask=m_in, other=0.0)
    return b_log, b_dt


@triton.jit
def _values(
    p_v, p_k, p_q, p_position, p_log, p_dt, p_skip, p_grad, p_slopes, p_grad_v, p_grad_dt, p_grad_skip,
    tokens, chunks, heads, shared, key_dim, value_dim, v_row, k_row, q_row, grad_row, scale,
    CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """One chunk of one head: the gradients of v, of dt where it scales what is written `[B, H, T]`, of skip
    `[B, N, H]`. p_slopes as `_states` leaves it."""
    i_c, i_h, i_b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    i_bh = i_b * heads + i_h
    o_c, o_k = tl.arange(0, CHUNK), tl.arange(0, BLOCK_K)
    o_t, m_k = i_c * CHUNK + o_c, o_k < key_dim
    m_in = o_t < tokens
    m_t = tl.load(p_position + i_b * tokens + o_t, mask=m_in, other=-1) >= 0
    o_row, m_tk = i_b * tokens + o_t, m_t[:, None] & m_k[None, :]
    DTYPE: tl.constexpr = p_v.dtype.element_ty
    o_key = (i_h // shared) * key_dim + o_k[None, :]
    b_k = tl.load(p_k + o_row[:, None] * k_row + o_key, mask=m_tk, other=0.0).to(DTYPE)
    b_q = tl.load(p_q + o_row[:, None] * q_row + o_key, mask=m_tk, other=0.0).to(DTYPE)
    b_log, b_dt = _rates(p_log, p_dt, i_bh * tokens + o_t, m_in, CHUNK)  # pyright: ignore[reportGeneralTypeIssues]
    b_sum = summed(b_log)
    b_over = tl.where(o_c[:, None] <= o_c[None, :], (b_sum[None, :] - b_sum[:, None]).to(tl.float32), FORGOTTEN)
    b_scores = tl.dot(b_k, tl.trans(b_q), input_precision="ieee")
    b_scores = (b_scores * tl.exp(b_over) * scale).to(DTYPE)
    b_after = decay_after(b_sum, CHUNK)
    b_grad_dt, b_grad_skip = tl.zeros((CHUNK,), tl.float32), 0.0
    for i in range(tl.cdiv(value_dim, BLOCK_V)):
        o_v = i * BLOCK_V + tl.arange(0, BLOCK_V)
        m_v = o_v < value_dim
        m_tv = m_t[:, None] & m_v[None, :]
        p_from = p_grad + o_row[:, None] * grad_row + i_h * value_dim + o_v[None, :]
        b_grad = tl.load(p_from, mask=m_tv, other=0.0).to(DTYPE)
        o_s = (i_bh * chunks + i_c) * key_dim * value_dim + o_k[:, None] * value_dim + o_v[None, :]
        b_slope = tl.load(p_slopes + o_s, mask=m_k[:, None] & m_v[None, :], other=0.0)
        b_write = state_product(b_k, b_slope) * b_after[:, None]
        b_write += tl.dot(b_scores, b_grad, input_precision="ieee")
        p_from = p_v + o_row[:, None] * v_row + i_h * value_dim + o_v[None, :]
        b_v = tl.load(p_from, mask=m_tv, other=0.0).to(tl.float32)
        b_grad_dt += tl.sum(b_write * b_v, 1)
        b_grad_v = b_write * b_dt[:, None]
        if p_skip is not None:
            b_grad_v += tl.load(p_skip + i_h).to(tl.float32) * b_grad.to(tl.float32)
            b_grad_skip += tl.sum(tl.sum(b_grad.to(tl.float32) * b_v, 1), 0)
        p_to = p_grad_v + o_row[:, None] * (heads * value_dim) + i_h * value_dim + o_v[None, :]
        tl.store(p_to, b_grad_v.to(p_grad_v.dtype.element_ty), mask=m_in[:, None] & m_v[None, :])
    if p_dt is not None:
        tl.store(p_grad_dt + i_bh * tokens + o_t, b_grad_dt, mask=m_in)
    if p_skip is not None:
        tl.store(p_grad_skip + (i_b * chunks + i_c) * heads + i_h, b_grad_skip)


@triton.jit
def _pairs(
    p_v, p_k, p_q, p_position, p_log, p_dt, p_grad, p_pairs, p_grad_log,
    tokens, chunks, heads, shared, key_dim, value_dim, v_row, k_row, q_row, grad_row, scale,
    CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """One chunk of one head: p_pairs `[B, H, N, C, C]`, the gradient of each product of a query and a key; and the part
    of that of log, `[B, H, T]`, that is due to them: of each token all pairs that end at it or later, less those that
    also begin there."""
    i_c, i_h, i_b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    o_c, o_k = tl.arange(0, CHUNK), tl.arange(0, BLOCK_K)
    o_t, m_k = i_c * CHUNK + o_c, o_k < key_dim
    m_in = o_t < tokens
    m_t = tl.load(p_position + i_b * tokens + o_t, mask=m_in, other=-1) >= 0
    o_row, m_tk = i_b * tokens + o_t, m_t[:, None] & m_k[None, :]
    DTYPE: tl.constexpr = p_v.dtype.element_ty
    b_pairs = tl.zeros((CHUNK, CHUNK), tl.float32)
    for i in range(tl.cdiv(value_dim, BLOCK_V)):
        o_v = i * BLOCK_V + tl.arange(0, BLOCK_V)
        m_tv, o_value = m_t[:, None] & (o_v < value_dim)[None, :], i_h * value_dim + o_v[None, :]
        b_v = tl.load(p_v + o_row[:, None] * v_row + o_value, mask=m_tv, other=0.0)
        b_grad = tl.load(p_grad + o_row[:, None] * grad_row + o_value, mask=m_tv, other=0.0).to(DTYPE)
        b_pairs += tl.dot(b_grad, tl.trans(b_v), input_precision="ieee")
    o_rate = (i_b * heads + i_h) * tokens + o_t
    b_log, b_dt = _rates(p_log, p_dt, o_rate, m_in, CHUNK)  # pyright: ignore[reportGeneralTypeIssues]
    b_pairs *= decay_between(summed(b_log), CHUNK) * (b_dt * scale)[None, :]
    p_to = p_pairs + (((i_b * heads + i_h) * chunks + i_c) * CHUNK + o_c[:, None]) * CHUNK + o_c[None, :]
    tl.store(p_to, b_pairs.to(p_pairs.dtype.element_ty))
    if p_log is not None:
        o_key = (i_h // shared) * key_dim + o_k[None, :]
        b_k = tl.load(p_k + o_row[:, None] * k_row + o_key, mask=m_tk, other=0.0).to(DTYPE)
        b_q = tl.load(p_q + o_row[:, None] * q_row + o_key, mask=m_tk, other=0.0).to(DTYPE)
        b_pairs *= tl.dot(b_q, tl.trans(b_k), input_precision="ieee")
        b_wide = tl.where(o_c[:, None] > o_c[None, :], b_pairs, 0.0).to(tl.float64)
        b_grad_log = tl.cumsum(tl.sum(b_wide, 1) - tl.sum(b_wide, 0), axis=0, reverse=True)
        tl.store(p_grad_log + o_rate, b_grad_log.to(tl.float32), mask=m_in)


@triton.jit
def _keys(
    p_v, p_k, p_q, p_position, p_log, p_dt, p_grad, p_states, p_slopes, p_pairs, p_grad_k, p_grad_q, p_grad_log,
    tokens, chunks, heads, shared, part, key_dim, value_dim, v_row, k_row, q_row, grad_row, scale,
    CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """One chunk of `part` heads of a group, BLOCK_K elements of their keys; p_pairs as `_pairs` leaves it. The
    gradients of k and q for each part, `[P, B, T, G, Dk]`; the part of that of log which is due to the states before
    and after, for each block of elements `[Dk / BLOCK_K, B, H, T]`. Blocks of one chunk run together."""
    groups, blocks = heads // shared, tl.cdiv(key_dim, BLOCK_K)
    i_c, i_k = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    i_part, i_g = tl.program_id(1) // groups, tl.program_id(1) % groups
    i_b, batch = tl.program_id(2).to(tl.int64), tl.num_programs(2)
    o_c, o_k = tl.arange(0, CHUNK), i_k * BLOCK_K + tl.arange(0, BLOCK_K)
    o_t, m_k = i_c * CHUNK + o_c, o_k < key_dim
    m_in = o_t < tokens
    m_t = tl.load(p_position + i_b * tokens + o_t, mask=m_in, other=-1) >= 0
    o_row, m_tk = i_b * tokens + o_t, m_t[:, None] & m_k[None, :]
    DTYPE: tl.constexpr = p_v.dtype.element_ty
    b_k = tl.load(p_k + o_row[:, None] * k_row + i_g * key_dim + o_k[None, :], mask=m_tk, other=0.0).to(DTYPE)
    b_q = tl.load(p_q + o_row[:, None] * q_row + i_g * key_dim + o_k[None, :], mask=m_tk, other=0.0).to(DTYPE)
    b_grad_k, b_grad_q = tl.zeros((CHUNK, BLOCK_K), tl.float32), tl.zeros((CHUNK, BLOCK_K), tl.float32)
    for i in range(tl.minimum(part, shared - i_part * part)):
        i_h = i_g * shared + i_part * part + i
        i_bh = i_b * heads + i_h
        b_log, b_dt = _rates(p_log, p_dt, i_bh * tokens + o_t, m_in, CHUNK)
        b_sum = summed(b_log)
        b_read, b_kept = tl.zeros((CHUNK, BLOCK_K), tl.float32), tl.zeros((CHUNK, BLOCK_K), tl.float32)
        b_same = tl.zeros((BLOCK_K,), tl.float32)
        for j in range(tl.cdiv(value_dim, BLOCK_V)):
            o_v = j * BLOCK_V + tl.arange(0, BLOCK_V)
            m_v = o_v < value_dim
            m_tv, m_s = m_t[:, None] & m_v[None, :], m_k[:, None] & m_v[None, :]
            o_value = i_h * value_dim + o_v[None, :]
            o_s = (i_bh * chunks + i_c) * key_dim * value_dim + o_k[:, None] * value_dim + o_v[None, :]
            b_grad = tl.load(p_grad + o_row[:, None] * grad_row + o_value, mask=m_tv, other=0.0).to(DTYPE)
            b_state = tl.load(p_states + o_s, mask=m_s, other=0.0)
            b_read += state_product(b_grad, tl.trans(b_state))
            b_v = tl.load(p_v + o_row[:, None] * v_row + o_value, mask=m_tv, other=0.0)
            b_slope = tl.load(p_slopes + o_s, mask=m_s, other=0.0)
            b_kept += state_product(b_v, tl.trans(b_slope))
            b_same += tl.sum(b_state.to(tl.float32) * b_slope.to(tl.float32), 1)
        b_read *= (tl.exp(b_sum.to(tl.float32)) * scale)[:, None]
        b_kept *= (decay_after(b_sum, CHUNK) * b_dt)[:, None]
        b_over = tl.sum(b_read * b_q.to(tl.float32), 1).to(tl.float64)
        b_left = tl.sum(b_kept * b_k.to(tl.float32), 1).to(tl.float64)
        b_grad_q += b_read
        b_grad_k += b_kept

        p_from = p_pairs + ((i_bh * chunks + i_c) * CHUNK + o_c[:, None]) * CHUNK + o_c[None, :]
        b_pairs = tl.load(p_from).to(DTYPE)
        b_grad_q += tl.dot(b_pairs, b_k, input_precision="ieee")
        b_grad_k += tl.dot(tl.trans(b_pairs), b_q, input_precision="ieee")
        if p_log is not None:
            b_grad_log = tl.cumsum(b_over, axis=0, reverse=True) + tl.cumsum(b_left, axis=0) - b_left
            b_grad_log += tl.sum(b_same, 0) * tl.exp(tl.sum(b_log, 0))
            o_to = ((i_k * batch + i_b) * heads + i_h) * tokens + o_t
            tl.store(p_grad_log + o_to, b_grad_log.to(tl.float32), mask=m_in)
    o_to = (((i_part * batch + i_b) * tokens + o_t) * groups + i_g)[:, None] * key_dim + o_k[None, :]
    m_to = m_in[:, None] & m_k[None, :]
    tl.store(p_grad_k + o_to, b_grad_k.to(p_grad_k.dtype.element_ty), mask=m_to)
    tl.store(p_grad_q + o_to, b_grad_q.to(p_grad_q.dtype.element_ty), mask=m_to)


def _launch(grad: Tensor, grad_final: Tensor | None, given: ChunkScan) -> Seven:
    v, k, q, position, log, dt, skip, initial, key_dim, value_dim, scale = given
    grads = _fake(grad, grad_final, given)
    if not v.numel():
        last = grads[6].zero_() if grad_final is None else grads[6].copy_(grad_final)
        return *(made.zero_() for made in grads[:6]), last  # type: ignore[return-value]
    batch, tokens = position.shape
    heads, groups = v.shape[-1] // value_dim, k.shape[-1] // key_dim
    shared, chunks = heads // groups, ceil_div(tokens, CHUNK)
    (v, v_row), (k, k_row), (q, q_row), (grad, grad_row) = token_rows(v), token_rows(k), token_rows(q), token_rows(grad)
    position = position.contiguous()
    kept = torch.bfloat16 if v.dtype == torch.bfloat16 else torch.float32
    states = v.new_empty((batch, heads, chunks, key_dim, value_dim), dtype=kept)
    slopes = torch.empty_like(states)
    block_k, block_v = max(16, power_of_2(key_dim)), max(16, power_of_2(value_dim))
    blocks = {"CHUNK": CHUNK, "BLOCK_K": min(64, block_k), "BLOCK_V": min(64, block_v)}
    grid = (ceil_div(value_dim, blocks["BLOCK_V"]), ceil_div(key_dim, blocks["BLOCK_K"]), batch * heads)
    sizes = (tokens, chunks, heads, shared, key_dim, value_dim)
    start = None if initial is None else initial.contiguous()
    last = None if grad_final is None else grad_final.contiguous()
    launchable(_states)[grid](
        k, v, position, log, dt, start, states, torch.empty_like(grads[6]), *sizes, k_row, v_row, scale,
        BACKWARDS=False, num_warps=4, num_stages=2, **blocks,
    )  # fmt: skip
    launchable(_states)[grid](
        q, grad, position, log, None, last, slopes, grads[6], *sizes, q_row, grad_row, scale, BACKWARDS=True,
        num_warps=4, num_stages=2, **blocks,
    )  # fmt: skip
    grad_v, grad_k, grad_q, grad_log, grad_dt, grad_skip, grad_initial = grads
    sum_skip = v.new_empty((batch, chunks, heads), dtype=torch.float32)
    launchable(_values)[(chunks, heads, batch)](
        v, k, q, position, log, dt, skip, grad, slopes, grad_v, grad_dt, sum_skip, *sizes, v_row, k_row, q_row,
        grad_row, scale, CHUNK=CHUNK, BLOCK_K=block_k, BLOCK_V=blocks["BLOCK_V"], num_warps=4, num_stages=1,
    )  # fmt: skip
    key_blocks = ceil_div(key_dim, KEYS)
    parts = max(1, min(shared, PROGRAMS // (batch * groups * chunks * key_blocks)))
    part = ceil_div(shared, parts)
    parts = ceil_div(shared, part)
    sum_k, sum_q = grad_k, grad_q
    if parts > 1:
        sum_k, sum_q = (k.new_empty((parts, *k.shape), dtype=torch.float32) for _ in range(2))
    sum_log = v.new_empty((key_blocks + 1, batch, heads, tokens), dtype=torch.float32)
    pairs = v.new_empty((batch, heads, chunks, CHUNK, CHUNK), dtype=kept)
    launchable(_pairs)[(chunks, heads, batch)](
        v, k, q, position, log, dt, grad, pairs, sum_log[key_blocks], *sizes, v_row, k_row, q_row, grad_row, scale,
        CHUNK=CHUNK, BLOCK_K=block_k, BLOCK_V=blocks["BLOCK_V"], num_warps=4, num_stages=1,
    )  # fmt: skip
    launchable(_keys)[(chunks * key_blocks, parts * groups, batch)](
        v, k, q, position, log, dt, grad, states, slopes, pairs, sum_k, sum_q, sum_log, tokens, chunks, heads, shared,
        part, key_dim, value_dim, v_row, k_row, q_row, grad_row, scale, CHUNK=CHUNK, BLOCK_K=min(KEYS, block_k),
        BLOCK_V=blocks["BLOCK_V"], num_warps=4, num_stages=1,
    )  # fmt: skip
    if log is not None:
        grad_log.copy_(sum_log.sum(0))
    if parts > 1:
        grad_k.copy_(sum_k.sum(0))
        grad_q.copy_(sum_q.sum(0))
    if skip is not None:
        grad_skip.copy_(sum_skip.sum((0, 1)))
    return grad_v, grad_k, grad_q, grad_log, grad_dt, grad_skip, grad_initial


def _fake(grad: Tensor, grad_final: Tensor | None, given: ChunkScan) -> Seven:
    """Of v, k, q, log, dt, skip and initial; empty where the operand is absent, but for the last."""
    v = given.v
    grad_v, grad_k, grad_q = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in given[:3])
    grad_log, grad_dt, grad_skip = (v.new_empty(0 if x is None else x.shape) for x in (given.log, given.dt, given.skip))
    wide = v.new_empty(given.state_shape, dtype=torch.float32)
    return grad_v, grad_k, grad_q, grad_log.float(), grad_dt.float(), grad_skip.float(), wide


def _reference(grad: Tensor, grad_final: Tensor | None, given: ChunkScan) -> Seven:
    grads = _fake(grad, grad_final, given)
    begin = torch.zeros_like(grads[6]) if given.initial is None else given.initial
    operands = given._replace(initial=begin)._asdict()
    leaves = {name: operands[name].float() for name in OF if operands[name] is not None}

    def run(leaves: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return by_reference(given._replace(**leaves).delta())

    last = torch.zeros_like(begin) if grad_final is None else grad_final
    (found,) = torch.func.vjp(run, leaves)[1]((grad.float(), last.float()))
    for name, made in zip(OF, grads, strict=True):
        if name in found:
            made.copy_(found[name])
    return grads


scan_chunks_backward = gpu_op("scan_chunks_backward", _launch, fake=_fake, reference=_reference)
