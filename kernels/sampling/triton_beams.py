"""A step of a beam search in Triton without sorting, four launches for any batch and any vocabulary: `beam_reference`.

The first, a program a chunk of a row, sums exponentials; the second lists each chunk's best tokens by taking the
largest again and again; the third does so with the lists of a row; the fourth, a program a prompt, goes on with its
beams. A score and its place make one whole number, so that no two are equal. Nothing is read on the host.

Floor: twice the logits' bytes, 1 us for four rows of 128k tokens in float32; the rest is launches.
"""

# pyright: basic
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..record import called_with
from . import beam_reference
from .beam_reference import Advanced
from .fields import AdvanceBeams, BeamState, BestContinuations

NEVER = tl.constexpr(beam_reference.NEVER)
NONE = tl.constexpr(-(2**63))
"""The number of what is no token, or is taken."""
CHUNK = 4096
"""Tokens of a chunk."""


@triton.jit
def _number(b_score, b_place):
    """Scores and places, the better ones larger, as one whole number each; NaN above all."""
    b_bits = (b_score + 0.0).to(tl.int32, bitcast=True)  # one zero
    b_bits = tl.where(b_score != b_score, 0x7FFFFFFF, b_bits ^ ((b_bits >> 31) & 0x7FFFFFFF))
    return (b_bits.to(tl.int64) << 32) | (0x7FFFFFFF - b_place).to(tl.int64)


@triton.jit
def _score_of(number):
    bits = (number >> 32).to(tl.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _place_of(number):
    return 0x7FFFFFFF - (number & 0x7FFFFFFF)


@triton.jit
def _sum_chunk(p_logits, p_largest, p_sums, size, stride, chunks, BLOCK: tl.constexpr):
    """The largest logit of a chunk, and the sum of the exponentials below it."""
    i_row, i_chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    o_x = i_chunk * BLOCK + tl.arange(0, BLOCK)
    b_x = tl.load(p_logits + i_row * stride + o_x, mask=o_x < size, other=-float("inf")).to(tl.float32)
    largest = tl.max(b_x, 0)
    at = tl.where(largest > -float("inf"), largest, 0.0)
    total = tl.sum(tl.where(o_x < size, tl.exp(b_x - at), 0.0), 0)
    tl.store(p_largest + i_row * chunks + i_chunk, largest)
    tl.store(p_sums + i_row * chunks + i_chunk, total)


@triton.jit
def _best_of_chunk(
    p_logits, p_largest, p_sums, p_score, p_penalty, p_seen, p_banned, p_found, size, stride, chunks, count,
    HAS_SEEN: tl.constexpr, BANNED: tl.constexpr, CHUNKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The numbers of the best tokens of a chunk."""
    i_row, i_chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    o_chunk = tl.arange(0, CHUNKS)
    b_largest = tl.load(p_largest + i_row * chunks + o_chunk, mask=o_chunk < chunks, other=-float("inf"))
    b_sums = tl.load(p_sums + i_row * chunks + o_chunk, mask=o_chunk < chunks, other=0.0)
    largest = tl.max(b_largest, 0)
    total = tl.sum(tl.where(b_largest > -float("inf"), tl.exp(b_largest - largest) * b_sums, b_sums), 0)
    o_x = i_chunk * BLOCK + tl.arange(0, BLOCK)
    m_x = o_x < size
    b_x = tl.load(p_logits + i_row * stride + o_x, mask=m_x, other=-float("inf")).to(tl.float32)
    b_found = (b_x - largest) - tl.log(total)
    if HAS_SEEN:
        penalty = tl.load(p_penalty)
        b_seen = tl.load(p_seen + i_row * size + o_x, mask=m_x, other=0)
        b_repeated = tl.where(b_found < 0.0, b_found * penalty, tl.div_rn(b_found, tl.zeros_like(b_found) + penalty))
        b_found = tl.where(b_seen > 0, b_repeated, b_found)
    b_found += tl.load(p_score + i_row)
    if p_banned is not None:  # a loop of no turns is compiled all the same
        for i_end in range(BANNED):
            m_banned = (o_x == tl.load(p_banned + i_end)) & (b_found == b_found)
            b_found = tl.where(m_banned, -float("inf"), b_found)
    b_number = tl.where(m_x, _number(b_found, o_x), NONE)
    for i in range(count):
        best = tl.max(b_number, 0)
        tl.store(p_found + (i_row * chunks + i_chunk) * count + i, best)
        b_number = tl.where(b_number == best, NONE, b_number)


@triton.jit
def _best_of_row(p_found, p_value, p_token, size, count, BLOCK: tl.constexpr):
    """The scores and tokens of the best numbers of a row, of `size` that were found in its chunks."""
    i_row = tl.program_id(0).to(tl.int64)
    o_x = tl.arange(0, BLOCK)
    b_number = tl.load(p_found + i_row * size + o_x, mask=o_x < size, other=NONE)
    for i in range(count):
        best = tl.max(b_number, 0)
        tl.store(p_value + i_row * count + i, _score_of(best))
        tl.store(p_token + i_row * count + i, _place_of(best))
        b_number = tl.where(b_number == best, NONE, b_number)


@triton.jit
def _taken(b_number):
    """The place of the best, and the others."""
    best = tl.max(b_number, 0)
    return _place_of(best), tl.where(b_number == best, NONE, b_number)


@triton.jit
def _at(b_value, o_x, place):
    """The value at a place."""
    return tl.sum(tl.where(o_x == place, b_value, tl.zeros_like(b_value)), 0)


@triton.jit
def _advance(
    p_value, p_token, p_rule, p_ends, p_length, p_step, p_score, p_row, p_common, p_kept_score, p_kept_step,
    p_kept_parent, p_kept_token, p_open, p_broken, p_next, p_source, p_first, p_chosen, p_parent,
    BEAMS: tl.constexpr, WIDTH: tl.constexpr, ENDS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The beams of one prompt."""
    i_prompt = tl.program_id(0).to(tl.int64)
    base = i_prompt * BEAMS
    norm, reach = tl.load(p_rule), tl.load(p_rule + 1)
    is_last, is_eager = tl.load(p_rule + 2).to(tl.int32) > 0, tl.load(p_rule + 3).to(tl.int32) > 0
    is_open, step = tl.load(p_open + i_prompt) != 0, tl.load(p_step)
    o_k, o_m, o_c = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_C)
    o_two = tl.arange(0, 2 * BLOCK_K)
    m_k, m_c = o_k < BEAMS, o_c < BEAMS * WIDTH
    b_row = tl.load(p_row + base + o_k, mask=m_k, other=-1)
    b_from = base + tl.load(p_row + base + o_c // WIDTH, mask=m_c, other=0)
    b_all = tl.load(p_value + b_from * WIDTH + o_c % WIDTH, mask=m_c, other=0.0)
    b_ids = tl.load(p_token + b_from * WIDTH + o_c % WIDTH, mask=m_c, other=-1)
    m_kept = o_two < BEAMS
    b_score = tl.load(p_kept_score + base + o_two, mask=m_kept, other=NEVER)
    b_step = tl.load(p_kept_step + base + o_two, mask=m_kept, other=0)
    b_parent = tl.load(p_kept_parent + base + o_two, mask=m_kept, other=0)
    b_token = tl.load(p_kept_token + base + o_two, mask=m_kept, other=0)

    # the best continuations of all beams: those that end join the kept ones, behind them
    b_number = tl.where(m_c, _number(b_all, o_c), NONE)
    b_going = tl.full((BLOCK_M,), 0.0, tl.float32)
    b_next = tl.full((BLOCK_M,), 0, tl.int64)
    b_after = tl.full((BLOCK_M,), 0, tl.int64)
    sound = tl.full((), 0, tl.int32)
    for i in range(WIDTH):
        place, b_number = _taken(b_number)
        value, token, parent = _at(b_all, o_c, place), _at(b_ids, o_c, place), place // WIDTH
        if i == 0:
            sound = tl.where(tl.abs(value) < float("inf"), 1, 0)
        ended = is_last.to(tl.int32)
        for i_end in range(ENDS):
            ended += (token == tl.load(p_ends + i_end)).to(tl.int32)
        is_end = ended > 0
        b_going = tl.where(o_m == i, value + tl.where(is_end, NEVER, 0.0), b_going)
        b_next, b_after = tl.where(o_m == i, token, b_next), tl.where(o_m == i, parent, b_after)
        m_new = (o_two == BEAMS + i) & (o_two < 2 * BEAMS) & is_end & is_open
        b_ended = tl.div_rn(tl.zeros_like(b_score) + value, tl.zeros_like(b_score) + norm)
        b_score = tl.where(m_new & (sound > 0), b_ended, b_score)
        b_step = tl.where(m_new, step + 1, b_step)
        b_parent, b_token = tl.where(m_new, parent, b_parent), tl.where(m_new, token, b_token)

    b_number = tl.where(o_two < 2 * BEAMS, _number(b_score, o_two), NONE)
    b_kept_score = tl.full((BLOCK_K,), 0.0, tl.float32)
    b_kept_step = tl.full((BLOCK_K,), 0, tl.int64)
    b_kept_parent = tl.full((BLOCK_K,), 0, tl.int64)
    b_kept_token = tl.full((BLOCK_K,), 0, tl.int64)
    b_order = tl.where(o_m < WIDTH, _number(b_going, o_m), NONE)
    b_running = tl.full((BLOCK_K,), 0.0, tl.float32)
    b_chosen = tl.full((BLOCK_K,), 0, tl.int64)
    b_before = tl.full((BLOCK_K,), 0, tl.int64)
    for i in range(BEAMS):
        place, b_number = _taken(b_number)
        m_i = o_k == i
        b_kept_score = tl.where(m_i, _at(b_score, o_two, place), b_kept_score)
        b_kept_step = tl.where(m_i, _at(b_step, o_two, place), b_kept_step)
        b_kept_parent = tl.where(m_i, _at(b_parent, o_two, place), b_kept_parent)
        b_kept_token = tl.where(m_i, _at(b_token, o_two, place), b_kept_token)
        place, b_order = _taken(b_order)
        b_running = tl.where(m_i, _at(b_going, o_m, place), b_running)
        b_chosen = tl.where(m_i, _at(b_next, o_m, place), b_chosen)
        b_before = tl.where(m_i, _at(b_after, o_m, place), b_before)

    worst = tl.min(tl.where(m_k, b_kept_score, float("inf")), 0)
    b_worst = tl.where(b_kept_step > 0, worst, NEVER)
    b_best = tl.div_rn(tl.zeros_like(b_worst) + _at(b_running, o_k, 0), tl.zeros_like(b_worst) + reach)
    can_improve = tl.max((m_k & (b_best > b_worst)).to(tl.int32), 0) > 0
    is_full = tl.min(tl.where(m_k, b_kept_step, 1), 0) > 0
    goes_on = is_open & can_improve & (is_last == 0) & ((is_eager & is_full) == 0) & (sound > 0)

    # rows: the first beam after another takes its row, the others those that nobody goes on from
    b_home = tl.sum(tl.where(b_before[:, None] == o_k[None, :], b_row[None, :], 0), 1)
    b_alike = (b_before[:, None] == b_before[None, :]) & (o_k[:, None] > o_k[None, :])
    m_extra = m_k & (tl.max(b_alike.to(tl.int32), 1) > 0)
    b_used = tl.max(((b_home[:, None] == o_k[None, :]) & m_k[:, None]).to(tl.int32), 0)
    m_free = m_k & (b_used == 0)
    b_extra, b_free = tl.cumsum(m_extra.to(tl.int32), 0), tl.cumsum(m_free.to(tl.int32), 0)
    m_match = m_free[None, :] & (b_free[None, :] == b_extra[:, None])
    b_place = tl.where(m_extra, tl.sum(tl.where(m_match, o_k[None, :], 0), 1), b_home)
    m_there = (b_place[:, None] == o_k[None, :]) & m_k[:, None]
    b_origin = tl.sum(tl.where(m_there, b_home[:, None], 0), 0)
    b_origin = tl.where(goes_on, b_origin, o_k)
    b_read = tl.sum(tl.where(m_there, b_chosen[:, None], 0), 0)
    m_pair = m_k[:, None] & m_k[None, :]
    p_common += base * BEAMS
    b_common = tl.load(p_common + b_origin[:, None] * BEAMS + b_origin[None, :], mask=m_pair, other=0)
    b_first = tl.load(p_common + o_k * BEAMS + b_origin, mask=m_k, other=0)
    b_length = tl.load(p_length + base + o_k, mask=m_k, other=0)
    b_common = tl.where(b_origin[:, None] == b_origin[None, :], b_length[:, None], b_common)

    tl.debug_barrier()  # other threads may still read what is written now
    tl.store(p_common + o_k[:, None] * BEAMS + o_k[None, :], b_common, mask=m_pair)
    tl.store(p_score + base + o_k, b_running, mask=m_k)
    tl.store(p_row + base + o_k, b_place, mask=m_k)
    tl.store(p_kept_score + base + o_k, b_kept_score, mask=m_k)
    tl.store(p_kept_step + base + o_k, b_kept_step, mask=m_k)
    tl.store(p_kept_parent + base + o_k, b_kept_parent, mask=m_k)
    tl.store(p_kept_token + base + o_k, b_kept_token, mask=m_k)
    was_broken = tl.load(p_broken + i_prompt) != 0
    tl.store(p_broken + i_prompt, was_broken | (is_open & (sound == 0)))
    tl.store(p_open + i_prompt, goes_on)
    tl.store(p_next + base + o_k, tl.where(goes_on, b_read, -1), mask=m_k)
    tl.store(p_source + base + o_k, base + b_origin, mask=m_k)
    tl.store(p_first + base + o_k, b_first, mask=m_k)
    tl.store(p_chosen + base + o_k, b_chosen, mask=m_k)
    tl.store(p_parent + base + o_k, b_before, mask=m_k)


def _launch_best(given: BestContinuations) -> tuple[Tensor, Tensor]:
    logits, score, width, penalty, seen, banned = given
    rows, size = logits.shape
    logits = logits if logits.stride(-1) == 1 else logits.contiguous()
    block = min(CHUNK, max(128, power_of_2(size)))
    chunks = ceil_div(size, block)
    device = logits.device
    largest, sums = (torch.empty((rows, chunks), dtype=torch.float32, device=device) for _ in range(2))
    found = torch.empty((rows, chunks * width), dtype=torch.int64, device=device)
    value, token = _fake_best(given)
    if not rows:
        return value, token
    warps = max(1, min(8, block // 512))
    launchable(_sum_chunk)[(rows, chunks)](
        logits, largest, sums, size, logits.stride(0), chunks, BLOCK=block, num_warps=warps
    )
    launchable(_best_of_chunk)[(rows, chunks)](
        logits, largest, sums, score, penalty, seen, banned, found, size, logits.stride(0), chunks, width,
        HAS_SEEN=seen is not None, BANNED=0 if banned is None else len(banned), CHUNKS=power_of_2(chunks), BLOCK=block,
        num_warps=warps,
    )  # fmt: skip
    launchable(_best_of_row)[(rows,)](
        found, value, token, chunks * width, width, BLOCK=power_of_2(chunks * width), num_warps=4
    )
    return value, token


def _fake_best(given: BestContinuations) -> tuple[Tensor, Tensor]:
    logits, shape = given.logits, (given.logits.shape[0], given.width)
    return logits.new_empty(shape, dtype=torch.float32), logits.new_empty(shape, dtype=torch.int64)


def _launch_advance(given: AdvanceBeams, state: BeamState) -> Advanced:
    (prompts, beams), width = state.score.shape, given.value.shape[1]
    made, block = _fake_advance(given, state), power_of_2(beams * width)
    if prompts:
        launchable(_advance)[(prompts,)](
            *given, *state, *made, BEAMS=beams, WIDTH=width, ENDS=len(given.ends), BLOCK_K=power_of_2(beams),
            BLOCK_M=power_of_2(width), BLOCK_C=block, num_warps=max(1, min(8, block // 128)),
        )  # fmt: skip
    return made


def _fake_advance(given: AdvanceBeams, state: BeamState) -> Advanced:
    following, source, first = (torch.empty_like(given.length) for _ in range(3))
    return following, source, first, torch.empty_like(state.row), torch.empty_like(state.row)


_best = gpu_op("best_continuations", _launch_best, fake=_fake_best, reference=beam_reference.best_continuations.of)
_advanced = gpu_op(
    "advance_beams",
    _launch_advance,
    fake=_fake_advance,
    reference=beam_reference.advance_beams,
    mutates_args=BeamState._fields,
)


@called_with(BestContinuations)
def best_continuations(given: BestContinuations) -> tuple[Tensor, Tensor]:
    """Arguments and result are those of the reference."""
    return _best(*given)


def advance_beams(given: AdvanceBeams, state: BeamState) -> Advanced:
    """Arguments and result are those of the reference."""
    return _advanced(*given, *state)
