"""Scan of many small states with values of one element (S6) in Triton: a channel's states in one thread's registers.

Gu and Dao 2023, algorithm 2. A program takes a warp's width of channels through a segment of the row, token by token,
so that time costs the same at any length. The floor is v, dt and the output once, 6 bytes a token and channel in
bfloat16; one exponential for each state of each token is what binds it, 16 a clock and multiprocessor.
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
from ..gpu.rows import optional_rows, token_rows
from ..gpu.sizes import ceil_div, power_of_2
from ..gpu.tuning import Config, Key, Tunable
from ..kernel import Request
from . import reference
from .fields import Scan, ScanFrom
from .operators import SelectiveScan
from .triton_segments import pass_states, segment_length

WIDEST = 64
"""States of a channel that one thread holds."""
PROGRAMS = 2112
"""Sixteen warps for each multiprocessor of an H100: they hide the latency of a token's loads."""
STEP = 16
"""Tokens whose multiple a segment is."""
LOG2_E = tl.constexpr(1.4426950408889634)


def serves(request: Request) -> str | None:
    """None, or why the channels are not of this form."""
    fields = request.fields
    if request.dtype == "float64":
        return "states are float32"
    if request.phase == "decode":
        return "one token at a time has no segments"
    if fields["value_dim"] != 1:
        return "a value has more than one element"
    if fields.get("update", "add") != "add" or fields.get("decay_per", "none") not in ("head", "state"):
        return "the decay is not of each state, or the state is also erased"
    key_dim = fields["key_dim"]
    if not isinstance(key_dim, int) or key_dim > WIDEST:
        return f"a channel of {key_dim} states is wider than {WIDEST}"
    if request.shapes["k"][-1] != key_dim:
        return "channels do not all share one key"
    return None


@triton.jit
def _walk(
    p_v, p_k, p_q, p_position, p_decay, p_dt, p_skip, p_start, p_final, p_whole, p_out,
    tokens, segment, segments, channels, key_dim, v_row, k_row, q_row, dt_row, scale,
    PER_STATE: tl.constexpr, IS_A_LOG: tl.constexpr, WITH_OUT: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_H: tl.constexpr,
):  # fmt: skip
    """BLOCK_H channels through one segment. p_start, p_final, p_whole (its log decay) `[B, S, H, N]`."""
    blocks = tl.cdiv(channels, BLOCK_H)
    i_bs = (tl.program_id(0) // blocks).to(tl.int64)
    i_b, begin = i_bs // segments, (tl.program_id(0) // blocks % segments) * segment
    o_n, o_h = tl.arange(0, BLOCK_N), (tl.program_id(0) % blocks) * BLOCK_H + tl.arange(0, BLOCK_H)
    m_n, m_h = o_n < key_dim, o_h < channels
    m_s = m_n[:, None] & m_h[None, :]
    o_s = (i_bs * channels + o_h[None, :]) * key_dim + o_n[:, None]
    if PER_STATE:
        b_rate = tl.load(p_decay + o_h[None, :] * key_dim + o_n[:, None], mask=m_s, other=0.0).to(tl.float32)
    else:
        b_head = tl.load(p_decay + o_h, mask=m_h, other=0.0).to(tl.float32)
        b_rate = tl.broadcast_to(b_head[None, :], (BLOCK_N, BLOCK_H))
    if IS_A_LOG:
        b_rate = -tl.exp(b_rate)
    b_rate2 = b_rate * LOG2_E
    b_s = tl.zeros((BLOCK_N, BLOCK_H), tl.float32)
    if p_start is not None:
        b_s = tl.load(p_start + o_s, mask=m_s, other=0.0).to(tl.float32)
    b_skip = tl.zeros((BLOCK_H,), tl.float32)
    if p_skip is not None:
        b_skip = tl.load(p_skip + o_h, mask=m_h, other=0.0).to(tl.float32)
    b_time = tl.zeros((BLOCK_H,), tl.float32)
    for t in range(begin, tl.minimum(begin + segment, tokens)):
        i_row = i_b * tokens + t
        keep = tl.load(p_position + i_row) >= 0
        b_v = tl.load(p_v + i_row * v_row + o_h, mask=m_h & keep, other=0.0).to(tl.float32)
        b_k = tl.load(p_k + i_row * k_row + o_n, mask=m_n & keep, other=0.0).to(tl.float32)
        b_dt = tl.where(m_h & keep, 1.0, 0.0)
        if p_dt is not None:
            b_dt = tl.load(p_dt + i_row * dt_row + o_h, mask=m_h & keep, other=0.0).to(tl.float32)
        b_s = b_s * tl.exp2(b_rate2 * b_dt[None, :]) + b_k[:, None] * (b_dt * b_v)[None, :]
        if WITH_OUT:
            b_q = tl.load(p_q + i_row * q_row + o_n, mask=m_n & keep, other=0.0).to(tl.float32)
            b_out = tl.sum(b_q[:, None] * b_s, 0) * scale + b_skip * b_v
            tl.store(p_out + i_row * channels + o_h, b_out.to(p_out.dtype.element_ty), mask=m_h)
        else:
            b_time += b_dt
    if p_final is not None:
        tl.store(p_final + o_s, b_s, mask=m_s)
    if not WITH_OUT:
        tl.store(p_whole + o_s, b_rate * b_time[None, :], mask=m_s)


def _rule(_key: Key) -> Config:
    return {"BLOCK_H": 32, "num_warps": 1}


def _space(_key: Key) -> tuple[Config, ...]:
    return ({"BLOCK_H": 32, "num_warps": 1}, {"BLOCK_H": 64, "num_warps": 1}, {"BLOCK_H": 64, "num_warps": 2})


SELECTIVE = Tunable(name="scan_selective", rule=_rule, space=_space)
TUNABLES = (SELECTIVE,)


def _launch(given: SelectiveScan) -> tuple[Tensor, Tensor]:
    v, k, q, position, decay, dt, skip, initial, decay_per, decay_form, scale = given
    (batch, tokens), channels, key_dim = position.shape, v.shape[-1], k.shape[-1]
    out, final = _fake(given)
    initial = None if initial is None else initial.contiguous()
    if not out.numel():
        return out, final.zero_() if initial is None else final.copy_(initial)
    (v, v_row), (k, k_row), (q, q_row), (dt, dt_row) = token_rows(v), token_rows(k), token_rows(q), optional_rows(dt)
    position, decay = position.contiguous(), decay.contiguous()
    config = SELECTIVE.config({"key_dim": power_of_2(key_dim)})
    blocks = ceil_div(channels, config["BLOCK_H"])
    segment = segment_length(tokens, batch * blocks, STEP, PROGRAMS)
    segments = ceil_div(tokens, segment)

    def walk(start: Tensor | None, left: Tensor | None, whole: Tensor | None, *, with_out: bool) -> None:
        launchable(_walk)[(batch * segments * blocks,)](
            v, k, q, position, decay, dt, skip, start, left, whole, out, tokens, segment, segments, channels, key_dim,
            v_row, k_row, q_row, dt_row, scale, PER_STATE=decay_per == "state", IS_A_LOG=decay_form == "A_log",
            WITH_OUT=with_out, BLOCK_N=power_of_2(key_dim), **config,
        )  # fmt: skip

    if segments == 1:
        walk(initial, final, None, with_out=True)
        return out, final
    states = v.new_empty((batch, segments, channels, key_dim, 1), dtype=torch.float32)
    whole = torch.empty_like(states[..., 0])
    walk(None, states, whole, with_out=False)
    pass_states(states, whole, initial, final)
    walk(states, None, None, with_out=True)
    return out, final


def _fake(given: SelectiveScan) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(given.v, memory_format=torch.contiguous_format)
    return out, given.v.new_empty(given.state_shape, dtype=torch.float32)


def _reference(given: SelectiveScan) -> tuple[Tensor, Tensor]:
    fields = given._asdict()
    initial = fields.pop("initial")
    state = given.v.new_zeros(given.state_shape, dtype=torch.float32) if initial is None else initial.clone()
    out, _ = reference.scan(**fields, state=(state,), key_dim=given.k.shape[-1], value_dim=1)
    return out.contiguous(), state


_scan = gpu_op("scan_selective", _launch, fake=_fake, reference=_reference)


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.decay_per, ctx.decay_form, ctx.scale = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _gradients(ctx, grad: Tensor | None, grad_final: Tensor | None):
    from .triton_selective_backward import scan_selective_backward

    given = ctx.saved_tensors
    grad = torch.zeros_like(given[0]) if grad is None else grad
    made = scan_selective_backward(grad, grad_final, *given, ctx.decay_per, ctx.decay_form, ctx.scale)
    made = (*made[:3], None, *made[3:])  # of v, k, q, position, decay, dt, skip, initial
    taken = (None if x is None or value is None else value.to(x.dtype) for x, value in zip(given, made, strict=True))
    return *taken, None, None, None


register_gradients(_scan, _gradients, setup_context=_keep)


@continued(Scan, ScanFrom)
def scan(given: Scan, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Arguments and result are those of the reference, of what `serves` accepts; raises ValueError else."""
    decay, others = given.decay, (given.beta, given.erase, given.write)
    if given.value_dim != 1 or given.k.shape[-1] != given.key_dim or given.decay_per not in ("head", "state"):
        raise ValueError(f"no channels of value_dim {given.value_dim} with decay_per {given.decay_per}")
    if decay is None or given.update != "add" or any(x is not None for x in others):
        raise ValueError(f"no channels of update {given.update}")
    return _scan(
        given.v, given.k, given.q, given.position, decay, given.dt, given.skip, state, given.decay_per,
        given.decay_form, given.scale,
    )  # fmt: skip
