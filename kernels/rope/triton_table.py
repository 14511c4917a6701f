"""The table of RoPE in Triton: every law of frequencies in one launch, nothing read on the host.

Powers, cosines and sines are taken in float64 and rounded, frequencies and angles are float32 as in the reference: what
differs are last bits of powers and ramps. It runs once a call, not once a layer.
"""

# pyright: basic
from __future__ import annotations

import json
import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..kernel import Request
from ..record import called_with, shared
from . import reference
from .fields import RopeLaw, RopeTable
from .frequencies import longrope_attention_factor, yarn_attention_factor

TOKENS = 16
"""Tokens of a program."""
SCANNED = 1024
"""Positions that a program reads at a time to find the length of its row."""
TURN = tl.constexpr(2 * math.pi)


def serves(_request: Request) -> None:
    """It serves every law, at any dtype of the model: the table is float32."""


class Law(NamedTuple):
    """The numbers of a law that do not depend on positions, as the kernel takes them."""

    scaling: str
    theta: float
    factor: float = 1.0
    low: float = 0.0
    high: float = 0.0
    trained: int = 0
    turning: int = 0
    gain: float = 1.0
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()


@triton.jit
def _power(b_base, b_exponent):
    """float32 `base ** exponent`, rounded once."""
    return tl.exp2(b_exponent.to(tl.float64) * tl.log2(b_base.to(tl.float64))).to(tl.float32)


@triton.jit
def _one(x):
    """A float32 block of one number."""
    return tl.zeros((1,), tl.float32) + x


@triton.jit
def _length(p_position, tokens, SCANNED: tl.constexpr):
    """One more than the largest position of a row."""
    b_last = tl.full((SCANNED,), -1, tl.int64)
    for start in range(0, tokens, SCANNED):
        o_x = start + tl.arange(0, SCANNED)
        b_last = tl.maximum(b_last, tl.load(p_position + o_x, mask=o_x < tokens, other=-1))
    return tl.max(b_last, 0) + 1


@triton.jit
def _frequency(
    p_position, tokens, o_pair, SCALING: tl.constexpr, DIMS: tl.constexpr, THETA: tl.constexpr, FACTOR: tl.constexpr,
    LOW: tl.constexpr, HIGH: tl.constexpr, TRAINED: tl.constexpr, TURNING: tl.constexpr, SHORT: tl.constexpr,
    LONG: tl.constexpr, SCANNED: tl.constexpr,
):  # fmt: skip
    """What each pair of a row turns per position; the formulas are those of `frequencies`."""
    b_exponent = tl.div_rn((2 * o_pair).to(tl.float32), _one(DIMS))
    b_base = _one(THETA)
    if SCALING == "dynamic":
        length = tl.maximum(_length(p_position, tokens, SCANNED), TRAINED).to(tl.float32)
        b_stretch = tl.div_rn(FACTOR * _one(length), _one(TRAINED)) - (FACTOR - 1)
        b_base = b_base * _power(b_stretch, _one(DIMS / (DIMS - 2)))
    b_power = _power(b_base, b_exponent)
    b_plain = tl.div_rn(_one(1.0), b_power)
    b_slow = tl.div_rn(b_plain, _one(FACTOR))
    b_index = o_pair.to(tl.float32)
    if SCALING == "linear":
        b_found = b_slow
    elif SCALING == "llama3":
        b_wave = tl.div_rn(_one(TURN), b_plain)
        b_kept = tl.where(b_wave > TRAINED / LOW, b_slow, b_plain)
        b_ramp = tl.div_rn(tl.div_rn(_one(TRAINED), b_wave) - LOW, _one(HIGH - LOW))
        m_between = (b_wave >= TRAINED / HIGH) & (b_wave <= TRAINED / LOW)
        b_mixed = tl.div_rn((1.0 - b_ramp) * b_kept, _one(FACTOR)) + b_ramp * b_kept
        b_found = tl.where(m_between, b_mixed, b_kept)
    elif SCALING == "yarn":
        b_ramp = tl.div_rn(b_index - LOW, _one(HIGH - LOW))
        b_kept = 1.0 - tl.minimum(tl.maximum(b_ramp, 0.0), 1.0)
        b_found = tl.div_rn(_one(1.0), FACTOR * b_power) * (1.0 - b_kept) + b_plain * b_kept
    elif SCALING == "longrope":
        m_long = _length(p_position, tokens, SCANNED) > TRAINED
        b_divisor = tl.full((o_pair.shape[0],), 1.0, tl.float32)
        for i in tl.static_range(len(SHORT)):
            b_divisor = tl.where(o_pair == i, tl.where(m_long, LONG[i], SHORT[i]), b_divisor)
        b_found = tl.div_rn(_one(1.0), b_divisor * b_power)
    elif SCALING == "proportional":
        b_found = tl.where(o_pair < TURNING, b_slow, 0.0)
    else:
        tl.static_assert((SCALING == "none") | (SCALING == "dynamic"), "no such law")
        b_found = b_plain
    return b_found


@triton.jit
def _fill(
    p_position, p_table, tokens, SCALING: tl.constexpr, DIMS: tl.constexpr, THETA: tl.constexpr, FACTOR: tl.constexpr,
    LOW: tl.constexpr, HIGH: tl.constexpr, TRAINED: tl.constexpr, TURNING: tl.constexpr, GAIN: tl.constexpr,
    SHORT: tl.constexpr, LONG: tl.constexpr, PAIRS: tl.constexpr, TOKENS: tl.constexpr, SCANNED: tl.constexpr,
):  # fmt: skip
    """The cosines and sines of TOKENS tokens of one row."""
    i_row, i_token = tl.program_id(0).to(tl.int64), tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    o_pair = tl.arange(0, PAIRS)
    m_token, m_pair = i_token < tokens, o_pair < DIMS // 2
    p_position = p_position + i_row * tokens
    b_frequency = _frequency(
        p_position, tokens, o_pair, SCALING, DIMS, THETA, FACTOR, LOW, HIGH, TRAINED, TURNING, SHORT, LONG, SCANNED
    )
    b_position = tl.maximum(tl.load(p_position + i_token, mask=m_token, other=0), 0).to(tl.float32)
    b_angle = (b_position[:, None] * b_frequency[None, :]).to(tl.float64)
    p_pair = p_table + ((i_row * tokens + i_token) * DIMS)[:, None] + o_pair[None, :]
    m_table = m_token[:, None] & m_pair[None, :]
    tl.store(p_pair, tl.cos(b_angle).to(tl.float32) * GAIN, mask=m_table)
    tl.store(p_pair + DIMS // 2, tl.sin(b_angle).to(tl.float32) * GAIN, mask=m_table)


def _given(value: float | None, name: str, scaling: str) -> float:
    if value is None:
        raise ValueError(f"rope scaling {scaling!r} needs {name}")
    return value


def _yarn_ramp(dims: int, theta: float, trained: int, fast: float, slow: float, truncate: bool) -> tuple[float, float]:
    """Where the ramp begins and ends, in pairs, as `frequencies.yarn` says."""
    ends = [dims * math.log(trained / (times * 2 * math.pi)) / (2 * math.log(theta)) for times in (fast, slow)]
    low, high = (math.floor(ends[0]), math.ceil(ends[1])) if truncate else ends
    low, high = max(low, 0), min(high, dims - 1)
    return float(low), float(high + 0.001 if low == high else high)


def constexprs(law: Law, dims: int) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {
        "SCALING": law.scaling, "DIMS": dims, "THETA": law.theta, "FACTOR": law.factor, "LOW": law.low,
        "HIGH": law.high, "TRAINED": law.trained, "TURNING": law.turning, "GAIN": law.gain, "SHORT": law.short,
        "LONG": law.long, "PAIRS": power_of_2(dims // 2), "TOKENS": TOKENS, "SCANNED": SCANNED,
    }  # fmt: skip


def law_of(given: RopeLaw, rotary_dim: int) -> Law:
    """The law that the arguments of `rope_table` describe. Raises ValueError where one is missing."""
    scaling, theta, factor = given.scaling, given.theta, given.factor
    law = Law(scaling, theta)
    if scaling in ("linear", "dynamic", "llama3"):
        law = law._replace(factor=_given(factor, "factor", scaling))
    if scaling == "dynamic":
        trained = _given(given.original_max_seq_len or given.max_seq_len, "max_seq_len", scaling)
        law = law._replace(trained=int(trained))
    if scaling in ("llama3", "yarn", "longrope"):
        law = law._replace(trained=int(_given(given.original_max_seq_len, "original_max_seq_len", scaling)))
    if scaling == "llama3":
        return law._replace(low=given.low_freq_factor, high=given.high_freq_factor)
    if scaling == "proportional":
        turning = int(given.rotary_fraction * rotary_dim // 2)
        return law._replace(factor=1.0 if factor is None else factor, turning=turning)
    if scaling not in ("yarn", "longrope"):
        return law
    if factor is None:
        factor = _given(given.max_seq_len, "factor or max_seq_len", scaling) / law.trained
    if scaling == "yarn":
        low, high = _yarn_ramp(rotary_dim, theta, law.trained, given.beta_fast, given.beta_slow, given.truncate)
        gain = yarn_attention_factor(factor, given.mscale, given.mscale_all_dim)
        law = law._replace(low=low, high=high, gain=gain)
    elif given.short_factor is None or given.long_factor is None:
        raise ValueError("rope scaling 'longrope' needs short_factor and long_factor")
    else:
        gain = longrope_attention_factor(factor, law.trained)
        law = law._replace(short=tuple(given.short_factor), long=tuple(given.long_factor), gain=gain)
    return law._replace(factor=factor, gain=law.gain if given.attention_factor is None else given.attention_factor)


def _launch(position: Tensor, rotary_dim: int, options: str) -> Tensor:
    table = _fake(position, rotary_dim, options)
    if table.numel():
        batch, tokens = position.shape
        law = law_of(RopeLaw(**json.loads(options)), rotary_dim)
        launchable(_fill)[(batch, ceil_div(tokens, TOKENS))](
            position.contiguous(), table, tokens, **constexprs(law, rotary_dim), num_warps=4
        )
    return table


def _fake(position: Tensor, rotary_dim: int, options: str) -> Tensor:
    return position.new_empty((*position.shape, rotary_dim), dtype=torch.float32)


def _reference(position: Tensor, rotary_dim: int, options: str) -> Tensor:
    return reference.rope_table(position=position, rotary_dim=rotary_dim, **json.loads(options))


_table = gpu_op("rope_table", _launch, fake=_fake, reference=_reference)


@called_with(RopeTable)
def rope_table(given: RopeTable) -> Tensor:
    """Arguments and result are those of the reference."""
    return _table(given.position, given.rotary_dim, _written(**shared(given, RopeLaw)))


@torch.compiler.assume_constant_result
def _written(**options: object) -> str:
    """As one argument of a torch operator, which takes no records."""
    return json.dumps(options)
