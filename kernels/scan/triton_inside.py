"""What happens inside a chunk of a scan in Triton: scores between its tokens, and the triangular system they solve.

A sub-block of 16 tokens is a program. Between sub-blocks a score is a product of matrices, rows decayed from the start
of their sub-block and columns to the end of theirs; inside one, where channels forget at their own rates, it is summed
column by column. Exponents are sums of log decays over tokens that lie between, so none overflows and none loses digits
to a strong decay elsewhere (Yang et al. 2024, "Gated linear attention", section 4.3, and "Gated Delta Networks").
"""

# pyright: basic
from __future__ import annotations

import triton
import triton.language as tl

SUB = tl.constexpr(16)


@triton.jit
def tile(p_x, o_row, m_row, x_row, o_k, m_k):
    """Rows of one head, `[16, K]` float32."""
    b_x = tl.load(p_x + o_row[:, None] * x_row + o_k[None, :], mask=m_row[:, None] & m_k[None, :], other=0.0)
    return b_x.to(tl.float32)


@triton.jit
def logs(p_log, i_bh, i_b, i_first, o_t, m_t, log_row, tokens, o_k, m_k, PER_CHANNEL: tl.constexpr):
    """Log decays of tokens o_t of a row, `[16, K]` float32, or `[16, 1]` where a head has one."""
    if PER_CHANNEL:
        b_log = tl.load(
            p_log + (i_b * tokens + o_t)[:, None] * log_row + i_first + o_k[None, :], mask=m_t[:, None] & m_k[None, :],
            other=0.0,
        ).to(tl.float32)  # fmt: skip
    else:
        b_head = tl.zeros((SUB,), tl.float32)
        if p_log is not None:
            b_head = tl.load(p_log + i_bh * tokens + o_t, mask=m_t, other=0.0)
        b_log = b_head[:, None]
    return b_log


@triton.jit
def running(b_log, REVERSE: tl.constexpr, PER_CHANNEL: tl.constexpr):
    """Sums over the tokens up to each, or from each on, of what `logs` gives. One column is summed as a row of numbers,
    since Triton 3.6 cannot compile a scan of `[16, 1]`."""
    if PER_CHANNEL:
        b_sum = tl.cumsum(b_log, axis=0, reverse=REVERSE)
    else:
        b_sum = tl.cumsum(tl.reshape(b_log, (SUB,)), axis=0, reverse=REVERSE)[:, None]
    return b_sum


@triton.jit
def tokens_of(p_position, i_b, o_t, is_in, tokens, count):
    """Which of o_t are tokens of the row, padding left out; `is_in` says which are asked for."""
    return tl.load(p_position + i_b * tokens + o_t, mask=is_in & (o_t < count), other=-1) >= 0


@triton.jit
def inside(
    p_k, p_q, p_position, p_log, p_dt, p_beta, p_erase, p_write,
    p_scores, p_system, p_scores_v, p_feed, p_reads, p_solves, p_writes, p_writes_v, p_whole,
    tokens, count, padded, heads, shared, key_dim, k_row, q_row, log_row, beta_row, erase_row, write_row,
    UPDATE: tl.constexpr, PER_CHANNEL: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One sub-block of one head. Outputs per head and token, rows to a multiple of CHUNK:

    p_scores q with what is written by u (k, or `write`), p_scores_v q with k, `[C]`; p_system and p_feed the same of
    the rows that u is solved from; p_reads, p_solves the rows decayed from the chunk's start, p_writes, p_writes_v the
    columns to its end, `[Dk]`; p_whole the log decay of the chunk, `[Dk]` or one. Of update add u is v.
    """
    BLOCKS: tl.constexpr = CHUNK // 16
    RATES: tl.constexpr = BLOCK_K if PER_CHANNEL else 1  # pyright: ignore[reportAssignmentType]
    i_bh = tl.program_id(1).to(tl.int64)
    i_b, i_h = i_bh // heads, tl.program_id(1) % heads
    i_chunk, i_sub = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS
    begin = i_chunk * CHUNK
    first = begin + i_sub * SUB
    o_s, o_k = tl.arange(0, SUB), tl.arange(0, BLOCK_K)
    o_t, m_k = first + o_s, o_k < key_dim
    m_t = tokens_of(p_position, i_b, o_t, o_s < SUB, tokens, count)
    m_next = tokens_of(p_position, i_b, o_t + 1, o_s < SUB - 1, tokens, count)
    o_row = i_b * tokens + o_t
    p_kh, p_qh = p_k + (i_h // shared) * key_dim, p_q + (i_h // shared) * key_dim
    own = i_h * key_dim
    b_log = logs(p_log, i_bh, i_b, own, o_t, m_t, log_row, tokens, o_k, m_k, PER_CHANNEL)
    b_next = logs(p_log, i_bh, i_b, own, o_t + 1, m_next, log_row, tokens, o_k, m_k, PER_CHANNEL)
    b_since = running(b_log, False, PER_CHANNEL)
    b_until = running(b_next, True, PER_CHANNEL)
    b_q, b_k = tile(p_qh, o_row, m_t, q_row, o_k, m_k), tile(p_kh, o_row, m_t, k_row, o_k, m_k)
    b_dt = tl.full((SUB,), 1.0, tl.float32)
    if p_dt is not None:
        b_dt = tl.load(p_dt + i_bh * tokens + o_t, mask=m_t, other=0.0)
    b_solve, b_since_solve = b_k, b_since
    if UPDATE == "delta":
        b_beta = tl.load(p_beta + o_row * beta_row + i_h, mask=m_t, other=0.0).to(tl.float32)
        b_solve = b_k * b_beta[:, None]
    if UPDATE == "erase_write":
        m_before = tokens_of(p_position, i_b, o_t - 1, o_s > 0, tokens, count)
        b_before = logs(p_log, i_bh, i_b, own, o_t - 1, m_before, log_row, tokens, o_k, m_k, PER_CHANNEL)
        b_since_solve = running(b_before, False, PER_CHANNEL)
        b_solve = -tile(p_erase + own, o_row, m_t, erase_row, o_k, m_k)

    o_out = (i_bh * padded + o_t)[:, None] * CHUNK + i_sub * SUB + o_s[None, :]
    DTYPE: tl.constexpr = p_reads.dtype.element_ty
    b_between = tl.zeros((RATES,), tl.float32)
    b_from_q = b_q * tl.exp(b_since)
    b_from_solve = b_solve * tl.exp(b_since_solve)
    for n in range(i_sub):
        o_c = first - (n + 1) * SUB + o_s
        m_c = tokens_of(p_position, i_b, o_c, o_s < SUB, tokens, count)
        m_cn = tokens_of(p_position, i_b, o_c + 1, o_s < SUB - 1, tokens, count)
        b_log_c = logs(p_log, i_bh, i_b, own, o_c, m_c, log_row, tokens, o_k, m_k, PER_CHANNEL)
        b_next_c = logs(p_log, i_bh, i_b, own, o_c + 1, m_cn, log_row, tokens, o_k, m_k, PER_CHANNEL)
        b_left = tl.exp(running(b_next_c, True, PER_CHANNEL) + b_between[None, :])
        b_col = tile(p_kh, i_b * tokens + o_c, m_c, k_row, o_k, m_k) * b_left
        b_dt_c = tl.full((SUB,), 1.0, tl.float32)
        if p_dt is not None:
            b_dt_c = tl.load(p_dt + i_bh * tokens + o_c, mask=m_c, other=0.0)
        o_to = o_out - (n + 1) * SUB
        if UPDATE == "erase_write":
            b_scores_v = _product(b_from_q, b_col, DTYPE) * b_dt_c[None, :]
            tl.store(p_scores_v + o_to, b_scores_v.to(DTYPE))
            tl.store(p_feed + o_to, (_product(b_from_solve, b_col, DTYPE) * -b_dt_c[None, :]).to(DTYPE))
            b_col = tile(p_write + own, i_b * tokens + o_c, m_c, write_row, o_k, m_k) * b_left
        b_scores = _product(b_from_q, b_col, DTYPE)
        if UPDATE == "add":
            b_scores *= b_dt_c[None, :]
        else:
            tl.store(p_system + o_to, _product(b_from_solve, b_col, DTYPE))
        tl.store(p_scores + o_to, b_scores.to(DTYPE))
        b_between += tl.sum(b_log_c, 0)

    b_scores, b_system = tl.zeros((SUB, SUB), tl.float32), tl.zeros((SUB, SUB), tl.float32)
    b_scores_v, b_feed = tl.zeros((SUB, SUB), tl.float32), tl.zeros((SUB, SUB), tl.float32)
    b_sum, b_sum_solve = tl.zeros((SUB, RATES), tl.float32), tl.zeros((SUB, RATES), tl.float32)
    for n in range(SUB):
        i = SUB - 1 - n
        i_row = i_b * tokens + first + i
        keep = tl.sum(tl.where((o_s == i) & m_t, 1, 0), 0) > 0
        m_after = (o_s == i) & m_next
        b_after = tl.sum(tl.where(m_after[:, None], b_next, 0.0), 0)
        b_sum += tl.where((o_s > i)[:, None], b_after[None, :], 0.0)
        b_col = tl.load(p_kh + i_row * k_row + o_k, mask=m_k & keep, other=0.0).to(tl.float32)
        is_col = (o_s == i)[None, :]
        b_decayed = b_q * tl.exp(b_sum)
        b_decayed_solve = b_solve * tl.exp(b_sum)
        if UPDATE == "erase_write":
            b_sum_solve += tl.where((o_s > i + 1)[:, None], b_after[None, :], 0.0)
            b_decayed_solve = b_solve * tl.exp(b_sum_solve)
            b_scores_v = tl.where(is_col, tl.sum(b_decayed * b_col[None, :], 1)[:, None], b_scores_v)
            b_feed = tl.where(is_col, tl.sum(b_decayed_solve * b_col[None, :], 1)[:, None], b_feed)
            b_col = tl.load(p_write + own + i_row * write_row + o_k, mask=m_k & keep, other=0.0).to(tl.float32)
        b_scores = tl.where(is_col, tl.sum(b_decayed * b_col[None, :], 1)[:, None], b_scores)
        if UPDATE != "add":
            b_system = tl.where(is_col, tl.sum(b_decayed_solve * b_col[None, :], 1)[:, None], b_system)
    if UPDATE == "add":
        b_scores *= b_dt[None, :]
    else:
        tl.store(p_system + o_out, b_system)
    tl.store(p_scores + o_out, b_scores.to(DTYPE))
    if UPDATE == "erase_write":
        tl.store(p_scores_v + o_out, (b_scores_v * b_dt[None, :]).to(DTYPE))
        tl.store(p_feed + o_out, (b_feed * -b_dt[None, :]).to(DTYPE))

    b_rest = tl.zeros((RATES,), tl.float32)
    for n in range(i_sub + 1, BLOCKS):
        o_c = begin + n * SUB + o_s
        m_c = tokens_of(p_position, i_b, o_c, o_s < SUB, tokens, count)
        b_rest += tl.sum(logs(p_log, i_bh, i_b, own, o_c, m_c, log_row, tokens, o_k, m_k, PER_CHANNEL), 0)
    o_key = (i_bh * padded + o_t)[:, None] * key_dim + o_k[None, :]
    m_key = tl.broadcast_to(m_k[None, :], (SUB, BLOCK_K))
    tl.store(p_reads + o_key, (b_q * tl.exp(b_since + b_between[None, :])).to(DTYPE), mask=m_key)
    b_left = tl.exp(b_until + b_rest[None, :])
    b_written = b_k * b_left
    if UPDATE != "delta":
        b_written *= b_dt[:, None]
    if UPDATE == "erase_write":
        tl.store(p_writes_v + o_key, b_written.to(DTYPE), mask=m_key)
        b_written = tile(p_write + own, o_row, m_t, write_row, o_k, m_k) * b_left
    tl.store(p_writes + o_key, b_written.to(DTYPE), mask=m_key)
    if UPDATE != "add":
        b_solves = b_solve * tl.exp(b_since_solve + b_between[None, :])
        tl.store(p_solves + o_key, b_solves.to(DTYPE), mask=m_key)
    if i_sub == 0:
        o_rate = tl.arange(0, RATES)
        width = key_dim if PER_CHANNEL else 1
        p_to = p_whole + (i_bh * (padded // CHUNK) + i_chunk) * width + o_rate
        tl.store(p_to, b_rest + tl.sum(b_log, 0), mask=o_rate < width)


@triton.jit
def _product(b_row, b_col, DTYPE: tl.constexpr):
    return tl.dot(b_row.to(DTYPE), tl.trans(b_col.to(DTYPE)), input_precision="ieee")


@triton.jit
def invert(p_system, padded, CHUNK: tl.constexpr):
    """`(I + A)^-1` over A, strictly lower triangular, of one chunk of one head: row by row, float32."""
    i_bh = tl.program_id(1).to(tl.int64)
    o_c = tl.arange(0, CHUNK)
    p_a = p_system + (i_bh * padded + tl.program_id(0) * CHUNK) * CHUNK + o_c[:, None] * CHUNK + o_c[None, :]
    b_a = tl.where(o_c[:, None] > o_c[None, :], -tl.load(p_a, mask=o_c[:, None] > o_c[None, :], other=0.0), 0.0)
    for i in range(1, CHUNK):
        b_row = tl.sum(tl.where((o_c == i)[:, None], b_a, 0.0), 0)
        b_row += tl.sum(b_row[:, None] * b_a, 0)
        b_a = tl.where((o_c == i)[:, None], b_row[None, :], b_a)
    tl.store(p_a, b_a + tl.where(o_c[:, None] == o_c[None, :], 1.0, 0.0))
