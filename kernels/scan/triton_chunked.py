"""Scan in chunks in Triton where a head forgets by one factor: one kernel, the state held in registers between chunks.

Dao and Gu 2024, section 6. A program takes one head and some columns of its values through all chunks of a segment of
the row: keys, queries and values are read once and the output written once, which is the floor. Matrix products bound
it: a token and head take `2 * Dk * (C + 2 * Dv) + 2 * C * Dv` operations. Exponents are differences of float64 sums of
log decays, so that a strong decay costs the tokens after it no digits.
"""

# pyright: basic
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..continued import continued
from ..gpu.gradients import register_gradients
from ..gpu.op import gpu_op, launchable
from ..gpu.rows import token_rows
from ..gpu.sizes import ceil_div, power_of_2
from ..gpu.tuning import Config, Key, Tunable
from ..kernel import Request
from . import chunked
from .fields import Scan, ScanFrom
from .operators import ChunkScan, by_reference
from .rates import rates_per_head
from .triton_segments import pass_states, segment_length

CHUNK = 64
"""Tokens of a chunk: the fewest that fill a matrix instruction of Hopper's."""
WIDEST = 256
"""Elements of a key: its part of the state is held in registers."""
FORGOTTEN = tl.constexpr(chunked.FORGOTTEN)
"""A lower log decay would cost the sums after it their digits."""


def serves(request: Request) -> str | None:
    """None, or why there are no chunks of this form."""
    if request.dtype == "float64":
        return "states are float32"
    if why := chunked.serves(request):
        return why
    key_dim, value_dim = request.fields["key_dim"], request.fields["value_dim"]
    if not isinstance(key_dim, int) or key_dim > WIDEST:
        return f"a key of {key_dim} elements is longer than {WIDEST}"
    if value_dim == 1:
        return "a state of one column has no matrix products"
    return None


@triton.jit
def state_product(b_x, b_s):
    """`x @ s` in x's dtype, but in TF32 for float16, whose range a state may leave."""
    if b_x.dtype == tl.float32:
        b_out = tl.dot(b_x, b_s, input_precision="ieee")
    elif b_x.dtype == tl.float16:
        b_out = tl.dot(b_x.to(tl.float32), b_s, input_precision="tf32")
    else:
        b_out = tl.dot(b_x, b_s.to(b_x.dtype))
    return b_out


@triton.jit
def summed(b_log):
    """Log decays summed from the chunk's start, `[C]` float64, whose differences keep the digits of float32."""
    return tl.cumsum(tl.maximum(b_log, FORGOTTEN).to(tl.float64), axis=0)


@triton.jit
def decay_between(b_sum, CHUNK: tl.constexpr):
    """`exp` of the log decays of the tokens after s up to t, for s <= t, else 0: `[C, C]`. b_sum as `summed` gives."""
    o_c = tl.arange(0, CHUNK)
    b_over = (b_sum[:, None] - b_sum[None, :]).to(tl.float32)
    return tl.exp(tl.where(o_c[:, None] >= o_c[None, :], b_over, FORGOTTEN))


@triton.jit
def decay_after(b_sum, CHUNK: tl.constexpr):
    """`exp` of the log decays of the tokens after each: `[C]`."""
    b_last = tl.sum(tl.where(tl.arange(0, CHUNK) == CHUNK - 1, b_sum, 0.0), 0)
    return tl.exp((b_last - b_sum).to(tl.float32))


@triton.jit
def _chunks(
    p_v, p_k, p_q, p_position, p_log, p_dt, p_skip, p_start, p_final, p_whole, p_out,
    tokens, segment, segments, heads, shared, key_dim, value_dim, v_row, k_row, q_row, scale,
    WITH_OUT: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """BLOCK_V columns of one head, through one segment. p_start, p_final `[B, S, H, Dk, Dv]`, p_whole `[B, S, H]`.

    Without an output only what the segment adds to the state is made, and its log decay.
    """
    i_bs, i_h = tl.program_id(2).to(tl.int64), tl.program_id(1)
    i_b, begin = i_bs // segments, (tl.program_id(2) % segments) * segment
    o_c, o_k, o_v = tl.arange(0, CHUNK), tl.arange(0, BLOCK_K), tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    m_k, m_v = o_k < key_dim, o_v < value_dim
    o_s = ((i_bs * heads + i_h) * key_dim + o_k[:, None]) * value_dim + o_v[None, :]
    b_s = tl.zeros((BLOCK_K, BLOCK_V), tl.float32)
    if p_start is not None:
        b_s = tl.load(p_start + o_s, mask=m_k[:, None] & m_v[None, :], other=0.0).to(tl.float32)
    b_whole = 0.0
    for i in range(tl.cdiv(tl.minimum(segment, tokens - begin), CHUNK)):
        o_t = begin + i * CHUNK + o_c
        i_row = i_b * tokens + o_t
        m_in = o_t < tokens
        m_t = tl.load(p_position + i_row, mask=m_in, other=-1) >= 0
        p_kt = p_k + i_row[:, None] * k_row + (i_h // shared) * key_dim + o_k[None, :]
        b_k = tl.load(p_kt, mask=m_t[:, None] & m_k[None, :], other=0.0).to(p_v.dtype.element_ty)
        p_vt = p_v + i_row[:, None] * v_row + i_h * value_dim + o_v[None, :]
        b_v = tl.load(p_vt, mask=m_t[:, None] & m_v[None, :], other=0.0)
        o_rate = (i_b * heads + i_h) * tokens + o_t
        b_log, b_dt = tl.zeros((CHUNK,), tl.float32), tl.full((CHUNK,), 1.0, tl.float32)
        if p_log is not None:
            b_log = tl.load(p_log + o_rate, mask=m_in, other=0.0)
        if p_dt is not None:
            b_dt = tl.load(p_dt + o_rate, mask=m_in, other=0.0)
        b_total = summed(b_log)
        if WITH_OUT:
            p_qt = p_q + i_row[:, None] * q_row + (i_h // shared) * key_dim + o_k[None, :]
            b_q = tl.load(p_qt, mask=m_t[:, None] & m_k[None, :], other=0.0).to(p_v.dtype.element_ty)
            b_out = state_product(b_q, b_s) * tl.exp(b_total.to(tl.float32))[:, None]
            b_scores = tl.dot(b_q, tl.trans(b_k), input_precision="ieee")
            b_scores *= decay_between(b_total, CHUNK)
            b_amount = (b_v.to(tl.float32) * b_dt[:, None]).to(b_v.dtype)
            b_out = (b_out + tl.dot(b_scores.to(b_v.dtype), b_amount, input_precision="ieee")) * scale
            if p_skip is not None:
                b_out += tl.load(p_skip + i_h).to(tl.float32) * b_v.to(tl.float32)
            p_o = p_out + i_row[:, None] * (heads * value_dim) + i_h * value_dim + o_v[None, :]
            tl.store(p_o, b_out.to(p_out.dtype.element_ty), mask=m_in[:, None] & m_v[None, :])
        b_written = (b_v.to(tl.float32) * (decay_after(b_total, CHUNK) * b_dt)[:, None]).to(b_v.dtype)
        b_sum = tl.sum(b_log, 0)
        b_s = b_s * tl.exp(b_sum) + tl.dot(tl.trans(b_k), b_written, input_precision="ieee")
        b_whole += b_sum
    if p_final is not None:
        tl.store(p_final + o_s, b_s, mask=m_k[:, None] & m_v[None, :])
    if not WITH_OUT:
        tl.store(p_whole + i_bs * heads + i_h, b_whole)


def _rule(key: Key) -> Config:
    """At most 32 registers of state a thread. Four warps, since scores of 64 rows are made twice by eight."""
    columns = max(16, min(int(key["value_dim"]), 64, 4096 // int(key["key_dim"])))
    return {"BLOCK_V": columns, "num_warps": 4, "num_stages": 2}


def _space(key: Key) -> tuple[Config, ...]:
    return tuple(
        {"BLOCK_V": columns, "num_warps": warps, "num_stages": stages}
        for columns in (16, 32, 64, 128)
        if columns <= max(16, int(key["value_dim"])) and columns * int(key["key_dim"]) <= 16384
        for warps in (4, 8)
        for stages in (1, 2, 3)
    )


CHUNKS = Tunable(name="scan_chunks", rule=_rule, space=_space)
TUNABLES = (CHUNKS,)


def _launch(given: ChunkScan) -> tuple[Tensor, Tensor]:
    v, k, q, position, log, dt, skip, initial, key_dim, value_dim, scale = given
    batch, tokens = position.shape
    heads, groups = v.shape[-1] // value_dim, k.shape[-1] // key_dim
    out, final = _fake(given)
    initial = None if initial is None else initial.contiguous()
    if not out.numel():
        return out, final.zero_() if initial is None else final.copy_(initial)
    (v, v_row), (k, k_row), (q, q_row) = token_rows(v), token_rows(k), token_rows(q)
    block_k = max(16, power_of_2(key_dim))
    config = CHUNKS.config(
        {"key_dim": block_k, "value_dim": max(16, power_of_2(value_dim)), "dtype": str(v.dtype).removeprefix("torch.")}
    )
    blocks = ceil_div(value_dim, config["BLOCK_V"])
    segment = segment_length(tokens, batch * heads * blocks, CHUNK)
    segments = ceil_div(tokens, segment)
    shape = (batch, segments, heads, key_dim, value_dim)
    position = position.contiguous()

    def walk(start: Tensor | None, left: Tensor | None, sums: Tensor | None, *, with_out: bool) -> None:
        launchable(_chunks)[(blocks, heads, batch * segments)](
            v, k, q, position, log, dt, skip, start, left, sums, out, tokens, segment, segments, heads,
            heads // groups, key_dim, value_dim, v_row, k_row, q_row, scale, WITH_OUT=with_out, CHUNK=CHUNK,
            BLOCK_K=block_k, **config,
        )  # fmt: skip

    if segments == 1:
        walk(initial, final, None, with_out=True)
        return out, final
    states = v.new_empty(shape, dtype=torch.float32)
    sums = v.new_empty(shape[:3], dtype=torch.float32)
    walk(None, states, sums, with_out=False)
    pass_states(states, sums, initial, final)
    walk(states, None, None, with_out=True)
    return out, final


def _fake(given: ChunkScan) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(given.v, memory_format=torch.contiguous_format)
    return out, given.v.new_empty(given.state_shape, dtype=torch.float32)


def _reference(given: ChunkScan) -> tuple[Tensor, Tensor]:
    return by_reference(given.delta())


_scan = gpu_op("scan_chunks", _launch, fake=_fake, reference=_reference)


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.key_dim, ctx.value_dim, ctx.scale = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _gradients(ctx, grad: Tensor | None, grad_final: Tensor | None):
    from .triton_chunked_backward import scan_chunks_backward

    given = ctx.saved_tensors
    grad = torch.zeros_like(given[0]) if grad is None else grad
    made = scan_chunks_backward(grad, grad_final, *given, ctx.key_dim, ctx.value_dim, ctx.scale)
    made = (*made[:3], None, *made[3:])  # of v, k, q, position, log, dt, skip, initial
    taken = (None if x is None or value is None else value.to(x.dtype) for x, value in zip(given, made, strict=True))
    return *taken, None, None, None


register_gradients(_scan, _gradients, setup_context=_keep)


@continued(Scan, ScanFrom)
def scan(given: Scan, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Arguments and result are those of the reference, `update` add and one decay per head; raises ValueError else."""
    chunked.check(given)
    log, steps = rates_per_head(given)
    return _scan(
        given.v, given.k, given.q, given.position, log, steps, given.skip, state, given.key_dim, given.value_dim,
        given.scale,
    )  # fmt: skip
