"""Sampling in Triton without sorting, two launches for any batch and any vocabulary: `reference.sample`.

The first, a program a chunk of a row, writes penalised logits and each chunk's largest. The second, a program a row,
gathers the tokens near the largest into a short list, in order of ids, when the filters cannot reach beyond it (else it
goes on with the whole row), and finds each filter's edge by bisection on the bits of the scores, whose ends jump to
scores that occur: some ten steps, each a count or a sum of masses. Sums are of whole numbers, so that neither the order
nor the list changes the result. Nothing is read on the host; all settings are tensors.

Floor: the logits' bytes, 0.15 µs for 128k tokens in bfloat16; one program a row scans them at some 5 to 10 µs.
"""

# pyright: basic
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..gpu.tuning import Config, Key, Tunable
from ..record import called_with
from . import reference
from .fields import Sample
from .reference import WIDEST

NEAR = tl.constexpr(-12.0)
"""Scores from here on are listed: below it 128k tokens have less than the mass of the likeliest one."""
NEAR_PROBABILITY = tl.constexpr(6.2e-6)
"""A little more than exp(NEAR)."""
MASS_BITS = tl.constexpr(reference.MASS_BITS)
OCTAVE_BITS = tl.constexpr(reference.OCTAVE_BITS)
OCTAVES = tl.constexpr(reference.OCTAVES)
LOWEST_SCORE = tl.constexpr(reference.LOWEST_SCORE)
P0, P1, P2, P3, P4, P5, P6 = map(tl.constexpr, reference.POWER)
LOWEST = tl.constexpr(-0x7F800000)
"""The key of minus infinity."""
NOWHERE = tl.constexpr(2**31 - 1)


@triton.jit
def _penalise(
    p_logits, p_seen, p_repetition, p_presence, p_frequency, p_scores, p_largest, p_likeliest, size, stride, chunks,
    HAS_SEEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One chunk of a row: its scores in float32, the largest (infinity if any is NaN) and the first that has it."""
    i_row, i_chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    o_x = i_chunk * BLOCK + tl.arange(0, BLOCK)
    m_x = o_x < size
    b_x = tl.load(p_logits + i_row * stride + o_x, mask=m_x, other=-float("inf")).to(tl.float32)
    if HAS_SEEN:
        repetition = tl.load(p_repetition + i_row)
        presence, frequency = tl.load(p_presence + i_row), tl.load(p_frequency + i_row)
        is_used = (repetition != 1.0) | (presence != 0.0) | (frequency != 0.0)
        b_seen = tl.load(p_seen + i_row * size + o_x, mask=o_x < tl.where(is_used, size, 0), other=0)
        b_repeated = tl.where(b_x < 0.0, b_x * repetition, tl.div_rn(b_x, tl.zeros_like(b_x) + repetition))
        b_generated = tl.maximum(b_seen - 1, 0)
        b_often = (b_generated.to(tl.float64) * frequency.to(tl.float64)).to(tl.float32)  # no part of a multiply-add
        b_x = tl.where(b_seen > 0, b_repeated, b_x)
        b_x = b_x - b_often - tl.where(b_generated > 0, presence, 0.0)
    tl.store(p_scores + i_row * size + o_x, b_x, mask=m_x)
    largest = tl.max(tl.where(b_x == b_x, b_x, float("inf")), 0)
    tl.store(p_largest + i_row * chunks + i_chunk, largest)
    tl.store(p_likeliest + i_row * chunks + i_chunk, tl.min(tl.where(b_x == largest, o_x, NOWHERE), 0))


@triton.jit
def _key(b_score):
    """Scores of at most 0 as whole numbers of the same order."""
    return -(b_score.to(tl.int32, bitcast=True) & 0x7FFFFFFF)


@triton.jit
def _mass(b_score):
    """`reference.masses`: one product of floats, whole numbers from there on."""
    b_octaves = (-tl.maximum(b_score, LOWEST_SCORE) * OCTAVES).to(tl.int32)
    b_part = (b_octaves.to(tl.uint32, bitcast=True) & 0xFFFFFF) << 8
    b_power = tl.full(b_part.shape, P6, tl.uint32)
    b_power = P5 - tl.umulhi(b_power, b_part)
    b_power = P4 - tl.umulhi(b_power, b_part)
    b_power = P3 - tl.umulhi(b_power, b_part)
    b_power = P2 - tl.umulhi(b_power, b_part)
    b_power = P1 - tl.umulhi(b_power, b_part)
    b_power = P0 - tl.umulhi(b_power, b_part)
    b_mass = b_power.to(tl.int64) << (MASS_BITS - 31)  # pyright: ignore[reportAttributeAccessIssue]
    return b_mass >> (b_octaves >> OCTAVE_BITS).to(tl.int64)


@triton.jit
def _edge(p_scores, count, needed, BY_MASS: tl.constexpr, BLOCK: tl.constexpr):
    """The largest key from which on there are `needed` tokens, or as much mass, among `count` scores."""
    low = tl.full((), LOWEST, tl.int32)
    high = tl.full((), 1, tl.int32)
    while high - low > 1:
        middle = low + (high - low) // 2
        b_found = tl.zeros((BLOCK,), tl.int64)
        b_above = tl.full((BLOCK,), 1, tl.int32)
        b_below = tl.full((BLOCK,), LOWEST, tl.int32)
        for start in range(0, count, BLOCK):
            o_x = start + tl.arange(0, BLOCK)
            b_score = tl.load(p_scores + o_x, mask=o_x < count, other=-float("inf"))
            b_key = _key(b_score)
            m_above = b_key >= middle
            if BY_MASS:
                b_found += tl.where(m_above, _mass(b_score), 0)
            else:
                b_found += m_above.to(tl.int64)
            b_above = tl.minimum(b_above, tl.where(m_above, b_key, 1))
            b_below = tl.maximum(b_below, tl.where(m_above, LOWEST, b_key))
        is_enough = tl.sum(b_found, 0) >= needed
        above, below = tl.min(b_above, 0), tl.max(b_below, 0)
        low = tl.where(is_enough, above, low)
        high = tl.where(is_enough, high, below + 1)
    return low


@triton.jit
def _mass_from(p_scores, count, edge, BLOCK: tl.constexpr):
    """The mass of the keys from `edge` on, and the mass of one token at the edge."""
    b_total = tl.zeros((BLOCK,), tl.int64)
    b_one = tl.zeros((BLOCK,), tl.int64)
    for start in range(0, count, BLOCK):
        o_x = start + tl.arange(0, BLOCK)
        b_score = tl.load(p_scores + o_x, mask=o_x < count, other=-float("inf"))
        b_key, b_mass = _key(b_score), _mass(b_score)
        b_total += tl.where(b_key >= edge, b_mass, 0)
        b_one = tl.maximum(b_one, tl.where(b_key == edge, b_mass, 0))
    return tl.sum(b_total, 0), tl.max(b_one, 0)


@triton.jit
def _kept_mass(p_scores, o_x, count, edge, ties_before, ties_gone, least):
    """The masses of those tokens of a block that are kept, and how many are at the edge up to its end."""
    b_score = tl.load(p_scores + o_x, mask=o_x < count, other=-float("inf"))
    b_key = _key(b_score)
    b_tie = (b_key == edge).to(tl.int32)
    b_rank = ties_before + tl.cumsum(b_tie, 0) - b_tie
    m_kept = (b_key > edge) | ((b_tie > 0) & (b_rank >= ties_gone))
    b_mass = _mass(b_score)
    m_kept = m_kept & (b_key > LOWEST) & (b_mass >= least)
    return tl.where(m_kept, b_mass, 0), ties_before + tl.sum(b_tie, 0)


@triton.jit
def _gather(p_scores, p_near, p_ids, size, largest, temperature, BLOCK: tl.constexpr):
    """Turns a row into scores, lists those from NEAR on with their ids: how many, their mass, the mass of all."""
    count = tl.full((), 0, tl.int32)
    b_all = tl.zeros((BLOCK,), tl.int64)
    b_near = tl.zeros((BLOCK,), tl.int64)
    for start in range(0, size, BLOCK):
        o_x = start + tl.arange(0, BLOCK)
        m_x = o_x < size
        b_x = tl.load(p_scores + o_x, mask=m_x, other=-float("inf"))
        b_score = tl.div_rn(b_x - largest, tl.zeros_like(b_x) + temperature)
        tl.store(p_scores + o_x, b_score, mask=m_x)
        m_near = b_score >= NEAR
        b_mass = _mass(b_score)
        b_all += b_mass
        b_near += tl.where(m_near, b_mass, 0)
        b_one = m_near.to(tl.int32)
        o_near = count + tl.cumsum(b_one, 0) - b_one
        tl.store(p_near + o_near, b_score, mask=m_near)
        tl.store(p_ids + o_near, o_x, mask=m_near)
        count += tl.sum(b_one, 0)
    return count, tl.sum(b_near, 0), tl.sum(b_all, 0)


@triton.jit
def _word(seed, step):
    """The first 32 bits of Philox at this key and counter."""
    zero = tl.zeros((1,), tl.int64)
    low, high, none = (step + zero).to(tl.uint32), ((step + zero) >> 32).to(tl.uint32), zero.to(tl.uint32)
    word, _, _, _ = tl.philox(seed + zero, low, high, none, none)
    return tl.sum(word.to(tl.int64), 0)


@triton.jit
def _pick(
    p_scores, p_near, p_ids, p_largest, p_likeliest, p_temperature, p_top_k, p_top_p, p_min_p, p_seed, p_step, p_seen,
    p_tokens, size, chunks, HAS_SEEN: tl.constexpr, CHUNKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The token of one row. `p_near` and `p_ids` are scratch as wide as the row."""
    i_row = tl.program_id(0).to(tl.int64)
    p_scores, p_near, p_ids = p_scores + i_row * size, p_near + i_row * size, p_ids + i_row * size
    o_chunk = tl.arange(0, CHUNKS)
    b_largest = tl.load(p_largest + i_row * chunks + o_chunk, mask=o_chunk < chunks, other=-float("inf"))
    b_likeliest = tl.load(p_likeliest + i_row * chunks + o_chunk, mask=o_chunk < chunks, other=NOWHERE)
    largest, temperature = tl.max(b_largest, 0), tl.load(p_temperature + i_row)
    token = tl.min(tl.where(b_largest == largest, b_likeliest, NOWHERE), 0)
    is_finite = tl.abs(largest) < float("inf")
    if is_finite & (temperature != 0.0):
        top_k, top_p, min_p = tl.load(p_top_k + i_row), tl.load(p_top_p + i_row), tl.load(p_min_p + i_row)
        by_k, by_p = (top_k > 0) & (top_k < size), top_p < 1.0
        near, near_mass, all_mass = _gather(p_scores, p_near, p_ids, size, largest, temperature, BLOCK)
        tl.debug_barrier()  # the list was written by other threads than those that read it
        gone = tl.minimum(((1.0 - top_p.to(tl.float64)) * all_mass.to(tl.float64)).to(tl.int64), all_mass - 1)
        is_near = tl.where(by_k, near >= top_k, tl.where(by_p, all_mass - near_mass <= gone, min_p > NEAR_PROBABILITY))
        if is_near:
            p_from, count = p_near, near
        else:
            p_from, count = p_scores, size
        edge = tl.full((), LOWEST, tl.int32)
        ties_gone = tl.full((), 0, tl.int32)
        total = all_mass
        if by_k:
            edge = _edge(p_from, count, top_k.to(tl.int64), False, BLOCK)
            total, _ = _mass_from(p_from, count, edge, BLOCK)
        if by_p:
            gone = tl.minimum(((1.0 - top_p.to(tl.float64)) * total.to(tl.float64)).to(tl.int64), total - 1)
            edge = _edge(p_from, count, total - gone, True, BLOCK)
            reached, one = _mass_from(p_from, count, edge, BLOCK)
            ties_gone = ((gone - (total - reached)) // tl.maximum(one, 1)).to(tl.int32)
        least = (min_p * 2.0**MASS_BITS).to(tl.int64)
        b_mass = tl.zeros((BLOCK,), tl.int64)
        ties = tl.full((), 0, tl.int32)
        for start in range(0, count, BLOCK):
            b_kept, ties = _kept_mass(p_from, start + tl.arange(0, BLOCK), count, edge, ties, ties_gone, least)
            b_mass += b_kept
        mass, word = tl.sum(b_mass, 0), _word(tl.load(p_seed + i_row), tl.load(p_step + i_row))
        point = (word * (mass >> 29) + ((word * (mass & 0x1FFFFFFF)) >> 29)) >> 3
        b_first = tl.full((BLOCK,), NOWHERE, tl.int32)
        ties = tl.full((), 0, tl.int32)
        before = tl.full((), 0, tl.int64)
        for start in range(0, count, BLOCK):
            o_x = start + tl.arange(0, BLOCK)
            b_kept, ties = _kept_mass(p_from, o_x, count, edge, ties, ties_gone, least)
            m_past = before + tl.cumsum(b_kept, 0) > point
            b_first = tl.minimum(b_first, tl.where(m_past & (b_kept > 0), o_x, NOWHERE))
            before += tl.sum(b_kept, 0)
        token = tl.min(b_first, 0)
        if is_near:
            token = tl.load(p_ids + token)
    token = tl.where(is_finite, token, -1)
    tl.store(p_tokens + i_row, token.to(tl.int64))
    if HAS_SEEN:
        p_one = p_seen + i_row * size + tl.maximum(token, 0)
        now = tl.load(p_one)
        tl.store(p_one, tl.where(token >= 0, tl.maximum(now, 1) + 1, now))


def _rule(key: Key) -> Config:
    """A row's program is one multiprocessor's: many warps, and a block that a usual list fits."""
    block = min(4096, max(128, int(key["size"])))
    return {"CHUNK": min(4096, block), "BLOCK": block, "num_warps": max(1, min(16, block // 256))}


def _space(key: Key) -> tuple[Config, ...]:
    return tuple(
        {"CHUNK": chunk, "BLOCK": block, "num_warps": warps}
        for chunk in (2048, 4096)
        for block in (2048, 4096, 8192)
        for warps in (8, 16, 32)
    )


PICK = Tunable(name="sample", rule=_rule, space=_space)
TUNABLES = (PICK,)


def tuning_key(size: int) -> Key:
    """The vocabulary in powers of two."""
    return {"size": power_of_2(size)}


def _launch(given: Sample) -> Tensor:
    logits, temperature, top_k, top_p, min_p, repetition, presence, frequency, seed, step, seen = given
    batch, size = logits.shape
    tokens = _fake(given)
    if not batch:
        return tokens
    logits = logits if logits.stride(-1) == 1 else logits.contiguous()
    config = dict(PICK.config(tuning_key(size)))
    chunk = config.pop("CHUNK")
    chunks = ceil_div(size, chunk)
    scores = torch.empty((2, batch, size), dtype=torch.float32, device=logits.device)
    ids = torch.empty((batch, size), dtype=torch.int32, device=logits.device)
    largest = torch.empty((batch, chunks), dtype=torch.float32, device=logits.device)
    likeliest = torch.empty((batch, chunks), dtype=torch.int32, device=logits.device)
    launchable(_penalise)[(batch, chunks)](
        logits, seen, repetition, presence, frequency, scores, largest, likeliest, size, logits.stride(0), chunks,
        HAS_SEEN=seen is not None, BLOCK=chunk, num_warps=max(1, chunk // 512),
    )  # fmt: skip
    launchable(_pick)[(batch,)](
        scores, scores[1], ids, largest, likeliest, temperature, top_k, top_p, min_p, seed, step, seen, tokens, size,
        chunks, HAS_SEEN=seen is not None, CHUNKS=power_of_2(chunks), **config,
    )  # fmt: skip
    return tokens


def _fake(given: Sample) -> Tensor:
    return given.logits.new_empty(given.logits.shape[0], dtype=torch.int64)


_sample = gpu_op("sample", _launch, fake=_fake, reference=reference.sample.of, mutates_args=("seen",))


@called_with(Sample)
def sample(given: Sample) -> Tensor:
    """Arguments and result are those of the reference. Raises ValueError for a vocabulary beyond WIDEST."""
    if given.logits.shape[-1] > WIDEST:
        raise ValueError(f"a vocabulary of {given.logits.shape[-1]} tokens is wider than {WIDEST}")
    return _sample(*given)
