"""A scan token by token in Triton, the state of some heads held in registers: every law, one token or many.

For one token the floor is the state read and written, `8 * Dk * Dv` bytes a head; the kernel is bound by it. Columns of
a state do not depend on each other, so that they are split between programs until there are enough of these to ask for
all of the memory's bandwidth. Of many tokens it takes the time of so many steps: chunks are faster where they serve.
"""

# pyright: basic
from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..continued import continued
from ..gpu.op import gpu_op, launchable
from ..gpu.rows import optional_rows, token_rows
from ..gpu.sizes import ceil_div, power_of_2
from ..gpu.tuning import Config, Key, Tunable
from ..kernel import Request
from . import reference
from .fields import Scan, ScanFrom

WIDEST = 512
"""Elements of a key that one program holds."""
PROGRAMS = 264
"""Two for each of the 132 multiprocessors of an H100."""


def serves(request: Request) -> str | None:
    """None, or why no program can hold a column of the state."""
    if request.dtype == "float64":
        return "states are float32"
    if request.phase == "train":
        return "no gradients: the states between tokens are not kept"
    key_dim = request.fields["key_dim"]
    if not isinstance(key_dim, int) or key_dim > WIDEST:
        return f"a key of {key_dim} elements is longer than {WIDEST}"
    return None


@triton.jit
def _step(
    p_v, p_k, p_q, p_position, p_decay, p_dt, p_beta, p_erase, p_write, p_skip, p_state, p_out,
    tokens, heads, shared, key_dim, value_dim, v_row, k_row, q_row, decay_row, dt_row, beta_row, erase_row, write_row,
    scale, DECAY: tl.constexpr, IS_A_LOG: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
):  # fmt: skip
    """BLOCK_H heads of one row of the batch, BLOCK_V columns of their states."""
    blocks = tl.cdiv(heads, BLOCK_H)
    i_b = (tl.program_id(0) // blocks).to(tl.int64)
    o_h = (tl.program_id(0) % blocks) * BLOCK_H + tl.arange(0, BLOCK_H)
    o_k = tl.arange(0, BLOCK_K)
    o_v = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    m_h = o_h < heads
    m_hk = m_h[:, None] & (o_k < key_dim)[None, :]
    m_hv = m_h[:, None] & (o_v < value_dim)[None, :]
    m_s = m_hk[:, :, None] & (o_v < value_dim)[None, None, :]
    o_hk = o_h[:, None] * key_dim + o_k[None, :]
    o_gk = (o_h // shared)[:, None] * key_dim + o_k[None, :]
    o_hv = o_h[:, None] * value_dim + o_v[None, :]
    o_s = i_b * heads * key_dim * value_dim + o_hk[:, :, None] * value_dim + o_v[None, None, :]
    b_s = tl.load(p_state + o_s, mask=m_s, other=0.0).to(tl.float32)
    for t in range(tokens):
        i_row = i_b * tokens + t
        keep = tl.load(p_position + i_row) >= 0
        m_k, m_v, m_one = m_hk & keep, m_hv & keep, m_h & keep
        b_k = tl.load(p_k + i_row * k_row + o_gk, mask=m_k, other=0.0).to(tl.float32)
        b_q = tl.load(p_q + i_row * q_row + o_gk, mask=m_k, other=0.0).to(tl.float32)
        b_v = tl.load(p_v + i_row * v_row + o_hv, mask=m_v, other=0.0).to(tl.float32)
        b_change = b_v
        b_dt = tl.full((BLOCK_H,), 1.0, tl.float32)
        if p_dt is not None:
            b_dt = tl.load(p_dt + i_row * dt_row + o_h, mask=m_one, other=0.0).to(tl.float32)
            b_change = b_v * b_dt[:, None]
        if p_erase is not None:
            b_erase = tl.load(p_erase + i_row * erase_row + o_hk, mask=m_k, other=0.0).to(tl.float32)
            b_read = tl.sum(b_erase[:, :, None] * b_s, 1)
        if DECAY != "none":
            if DECAY == "head":
                b_rate = tl.load(p_decay + o_h, mask=m_h, other=0.0).to(tl.float32)[:, None]
            elif DECAY == "state":
                b_rate = tl.load(p_decay + o_hk, mask=m_hk, other=0.0).to(tl.float32)
            elif DECAY == "token_head":
                b_rate = tl.load(p_decay + i_row * decay_row + o_h, mask=m_one, other=0.0).to(tl.float32)[:, None]
            else:
                b_rate = tl.load(p_decay + i_row * decay_row + o_hk, mask=m_k, other=0.0).to(tl.float32)
            if IS_A_LOG:
                b_rate = -tl.exp(b_rate)
            b_s = b_s * tl.where(keep, tl.exp(b_rate * b_dt[:, None]), 1.0)[:, :, None]
        if p_beta is not None:
            b_beta = tl.load(p_beta + i_row * beta_row + o_h, mask=m_one, other=0.0).to(tl.float32)
            b_change = (b_change - tl.sum(b_k[:, :, None] * b_s, 1)) * b_beta[:, None]
        if p_erase is not None:
            b_write = tl.load(p_write + i_row * write_row + o_hk, mask=m_k, other=0.0).to(tl.float32)
            b_s += b_write[:, :, None] * b_read[:, None, :]
        b_s += b_k[:, :, None] * b_change[:, None, :]
        b_out = tl.sum(b_q[:, :, None] * b_s, 1) * scale
        if p_skip is not None:
            b_out += tl.load(p_skip + o_h, mask=m_h, other=0.0).to(tl.float32)[:, None] * b_v
        tl.store(p_out + i_row * heads * value_dim + o_hv, b_out.to(p_out.dtype.element_ty), mask=m_hv)
    tl.store(p_state + o_s, b_s, mask=m_s)


def _rule(key: Key) -> Config:
    """Enough programs to fill the GPU, of 256 to 4096 elements each, whole columns first, then whole heads."""
    rows, key_dim, value_dim = int(key["rows"]), int(key["key_dim"]), int(key["value_dim"])
    share = min(4096, max(256, power_of_2(rows * key_dim * value_dim // PROGRAMS)))
    columns = min(value_dim, max(8, share // key_dim))
    heads = max(1, min(32, rows, share // (key_dim * columns))) if columns == value_dim else 1
    return {"BLOCK_H": heads, "BLOCK_V": columns, "num_warps": min(8, max(1, heads * columns * key_dim // 512))}


def _space(key: Key) -> tuple[Config, ...]:
    value_dim = int(key["value_dim"])
    return tuple(
        {"BLOCK_H": heads, "BLOCK_V": min(columns, value_dim), "num_warps": warps}
        for heads, columns in (
            [(heads, value_dim) for heads in (8, 16, 32, 64)] if value_dim < 8 else [(1, 8), (1, 16), (1, 32), (1, 64)]
        )
        for warps in (1, 2, 4, 8)
    )


STEP = Tunable(name="scan_step", rule=_rule, space=_space)
TUNABLES = (STEP,)


class StepScan(NamedTuple):
    """A scan whose state is written in place, as an operator of torch takes it."""

    v: Tensor
    k: Tensor
    q: Tensor
    position: Tensor
    decay: Tensor | None
    dt: Tensor | None
    beta: Tensor | None
    erase: Tensor | None
    write: Tensor | None
    skip: Tensor | None
    state: Tensor
    key_dim: int
    value_dim: int
    decay_per: str
    decay_form: str
    scale: float


def _launch(given: StepScan) -> Tensor:
    (batch, tokens), key_dim, value_dim = given.position.shape, given.key_dim, given.value_dim
    heads, groups = given.v.shape[-1] // value_dim, given.k.shape[-1] // key_dim
    out = _fake(given)
    if not out.numel():
        return out
    (v, v_row), (k, k_row), (q, q_row) = token_rows(given.v), token_rows(given.k), token_rows(given.q)
    (dt, dt_row), (beta, beta_row) = optional_rows(given.dt), optional_rows(given.beta)
    (erase, erase_row), (write, write_row) = optional_rows(given.erase), optional_rows(given.write)
    decay, decay_row = given.decay, 0
    if decay is not None:
        decay, decay_row = token_rows(decay) if given.decay_per.startswith("token") else (decay.contiguous(), 0)
    held = given.state.contiguous()
    config = STEP.config(
        {"rows": power_of_2(batch * heads), "key_dim": power_of_2(key_dim), "value_dim": power_of_2(value_dim)}
    )
    grid = (batch * ceil_div(heads, config["BLOCK_H"]), ceil_div(value_dim, config["BLOCK_V"]))
    launchable(_step)[grid](
        v, k, q, given.position.contiguous(), decay, dt, beta, erase, write, given.skip, held, out,
        tokens, heads, heads // groups, key_dim, value_dim, v_row, k_row, q_row, decay_row, dt_row, beta_row,
        erase_row, write_row, given.scale, DECAY=given.decay_per, IS_A_LOG=given.decay_form == "A_log",
        BLOCK_K=power_of_2(key_dim), **config,
    )  # fmt: skip
    if held is not given.state:
        given.state.copy_(held)
    return out


def _fake(given: StepScan) -> Tensor:
    return torch.empty_like(given.v, memory_format=torch.contiguous_format)


def _reference(given: StepScan) -> Tensor:
    fields = given._asdict()
    state = fields.pop("state")
    out, _ = reference.scan(**fields, state=(state,))
    return out.contiguous()


_scan = gpu_op("scan_step", _launch, fake=_fake, reference=_reference, mutates_args=("state",))


@continued(Scan, ScanFrom)
def scan(given: Scan, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Arguments and result are those of the reference; the law follows from which of beta, erase and write are given.

    Gradients are not made.
    """
    shape = (given.position.shape[0], given.heads, given.key_dim, given.value_dim)
    held = given.v.new_zeros(shape, dtype=torch.float32) if state is None else state
    out = _scan(
        given.v, given.k, given.q, given.position, given.decay, given.dt, given.beta, given.erase, given.write,
        given.skip, held, given.key_dim, given.value_dim, given.decay_per, given.decay_form, given.scale,
    )  # fmt: skip
    return out, held
