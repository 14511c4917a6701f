"""Gradients of what happens inside a chunk of a scan in Triton, of keys, queries and decays, sub-block by sub-block.

A program is a sub-block of 16 tokens and some elements of the keys, which do not meet. It takes its tokens as rows,
with the columns of sub-blocks before it, as columns, with the rows of those after it, and both column by column. A log
decay's gradient is the sum of all products that reach over its token, with no difference of sums, so that strong decays
keep their digits: of its own rows and columns, and of pairs that span the sub-block.
"""

# pyright: basic
from __future__ import annotations

import triton
import triton.language as tl

from .triton_inside import SUB, logs, running, tile, tokens_of


@triton.jit
def _reach(m_over, b_x, PER_CHANNEL: tl.constexpr):
    """Rows of x `[16, K]` summed where m_over `[16, 16]` says so, and over K where a head has one decay."""
    if PER_CHANNEL:
        b_sum = tl.dot(tl.where(m_over, 1.0, 0.0), b_x, input_precision="tf32x3")
    else:
        b_sum = tl.sum(tl.where(m_over, tl.sum(b_x, 1)[None, :], 0.0), 1)[:, None]
    return b_sum


@triton.jit
def _pairs(p_grad, o_square, b_x, KEPT: tl.constexpr, PRECISION: tl.constexpr):
    """A sub-block of a gradient `[C, C]` with columns x `[16, K]` of a sub-block before its rows."""
    return tl.dot(tl.load(p_grad + o_square), b_x.to(KEPT), input_precision=PRECISION)


@triton.jit
def _back(p_grad, o_square, b_x, KEPT: tl.constexpr, PRECISION: tl.constexpr):
    """The same with rows x of a sub-block after its columns."""
    return tl.dot(tl.trans(tl.load(p_grad + o_square)), b_x.to(KEPT), input_precision=PRECISION)


@triton.jit
def _along(p_x, p_grad, o_key, m_key):
    """The sum over 16 tokens of what was made times its gradient, `[K]`."""
    b_x = tl.load(p_x + o_key, mask=m_key, other=0.0).to(tl.float32)
    return tl.sum(b_x * tl.load(p_grad + o_key, mask=m_key, other=0.0).to(tl.float32), 0)


@triton.jit
def _put(p_to, o_out, b_x, m_t, m_out):
    """Rows of tokens, 0 at padding."""
    tl.store(p_to + o_out, tl.where(m_t[:, None], b_x, 0.0).to(p_to.dtype.element_ty), mask=m_out)


@triton.jit
def _columns(
    p_kh, p_wh, p_position, p_log, p_dt, b_over, i_bh, i_b, own, o_c, tokens, count, k_row, write_row, log_row,
    o_k, m_k, UPDATE: tl.constexpr, PER_CHANNEL: tl.constexpr,
):  # fmt: skip
    """What tokens o_c write, decayed to the end of their sub-block and by the log b_over: of u, of v; their decays."""
    o_s = tl.arange(0, SUB)
    m_c = tokens_of(p_position, i_b, o_c, o_s < SUB, tokens, count)
    m_next = tokens_of(p_position, i_b, o_c + 1, o_s < SUB - 1, tokens, count)
    b_log = logs(p_log, i_bh, i_b, own, o_c, m_c, log_row, tokens, o_k, m_k, PER_CHANNEL)
    b_next = logs(p_log, i_bh, i_b, own, o_c + 1, m_next, log_row, tokens, o_k, m_k, PER_CHANNEL)
    b_left = tl.exp(running(b_next, True, PER_CHANNEL) + b_over[None, :])
    b_col_v = tile(p_kh, i_b * tokens + o_c, m_c, k_row, o_k, m_k) * b_left
    if UPDATE != "delta":  # noqa: SIM102 (constants of the kernel, which Triton takes one by one)
        if p_dt is not None:
            b_col_v *= tl.load(p_dt + i_bh * tokens + o_c, mask=m_c, other=0.0)[:, None]
    b_col = b_col_v
    if UPDATE == "erase_write":
        b_col = tile(p_wh, i_b * tokens + o_c, m_c, write_row, o_k, m_k) * b_left
    return b_col, b_col_v, b_log


@triton.jit
def _within(
    p_kh, p_wh, p_grad_scores, p_grad_system, p_grad_scores_v, p_grad_feed, b_q, b_solve, b_times, b_next, m_t, m_next,
    i_row, o_column, k_row, write_row, o_k, m_k, UPDATE: tl.constexpr, PER_CHANNEL: tl.constexpr,
):  # fmt: skip
    """Gradients of pairs of one sub-block, column by column: of q, of what is solved, of what writes u and v, of logs.

    i_row is the first token's row, o_column the place of the first column; b_times `[16]` scales k where it is written.
    """
    o_s = tl.arange(0, SUB)
    b_grad_q, b_grad_solve = tl.zeros_like(b_q), tl.zeros_like(b_q)
    b_grad_x, b_grad_v = tl.zeros_like(b_q), tl.zeros_like(b_q)
    b_grad_log = tl.zeros_like(b_next)
    b_sum, b_sum_solve = tl.zeros_like(b_next), tl.zeros_like(b_next)
    for n in range(SUB):
        i = SUB - 1 - n
        keep = tl.sum(tl.where((o_s == i) & m_t, 1, 0), 0) > 0
        b_after = tl.sum(tl.where(((o_s == i) & m_next)[:, None], b_next, 0.0), 0)[None, :]
        b_sum += tl.where((o_s > i)[:, None], b_after, 0.0)
        b_factor = tl.exp(b_sum)
        b_col_v = tl.load(p_kh + (i_row + i) * k_row + o_k, mask=m_k & keep, other=0.0).to(tl.float32)
        b_col_v *= tl.sum(tl.where(o_s == i, b_times, 0.0), 0)
        b_col = b_col_v
        if UPDATE == "erase_write":
            b_col = tl.load(p_wh + (i_row + i) * write_row + o_k, mask=m_k & keep, other=0.0).to(tl.float32)
        b_scores = tl.load(p_grad_scores + o_column + i, mask=o_s >= i, other=0.0).to(tl.float32)[:, None] * b_factor
        b_row = b_scores * b_col[None, :]
        b_back = tl.sum(b_scores * b_q, 0)
        if UPDATE == "erase_write":
            b_scores = tl.load(p_grad_scores_v + o_column + i, mask=o_s >= i, other=0.0).to(tl.float32)[:, None]
            b_row += b_scores * b_factor * b_col_v[None, :]
            b_back_v = tl.sum(b_scores * b_factor * b_q, 0)
        b_grad_q += b_row
        b_over = b_q * b_row
        m_between = (o_s[:, None] > i) & (o_s[:, None] <= o_s[None, :])
        if UPDATE != "add":
            if UPDATE == "erase_write":
                b_sum_solve += tl.where((o_s > i + 1)[:, None], b_after, 0.0)
                b_factor = tl.exp(b_sum_solve)
            b_system = tl.load(p_grad_system + o_column + i, mask=o_s > i, other=0.0).to(tl.float32)[:, None] * b_factor
            b_row = b_system * b_col[None, :]
            b_back += tl.sum(b_system * b_solve, 0)
            if UPDATE == "erase_write":
                b_feed = tl.load(p_grad_feed + o_column + i, mask=o_s > i, other=0.0).to(tl.float32)[:, None] * b_factor
                b_row += b_feed * b_col_v[None, :]
                b_back_v += tl.sum(b_feed * b_solve, 0)
                b_grad_log += _reach(m_between & (o_s[:, None] < o_s[None, :]), b_solve * b_row, PER_CHANNEL)
            else:
                b_over += b_solve * b_row
            b_grad_solve += b_row
        b_grad_log += _reach(m_between, b_over, PER_CHANNEL)
        b_grad_x += tl.where((o_s == i)[:, None], b_back[None, :], 0.0)
        if UPDATE == "erase_write":
            b_grad_v += tl.where((o_s == i)[:, None], b_back_v[None, :], 0.0)
    return b_grad_q, b_grad_solve, b_grad_x, b_grad_v, b_grad_log


@triton.jit
def inside_backward(
    p_k, p_q, p_position, p_log, p_dt, p_beta, p_erase, p_write, p_reads, p_solves, p_writes, p_writes_v,
    p_grad_scores, p_grad_system, p_grad_scores_v, p_grad_feed, p_grad_reads, p_grad_solves, p_grad_writes,
    p_grad_writes_v, p_grad_whole, p_grad_amount,
    p_grad_k, p_grad_q, p_grad_log, p_grad_dt, p_grad_beta, p_grad_erase, p_grad_write,
    tokens, key_tokens, count, padded, heads, shared, key_dim, k_row, q_row, log_row, beta_row, erase_row, write_row,
    UPDATE: tl.constexpr, PER_CHANNEL: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One sub-block of one head, BLOCK_K elements of its keys. Up to p_grad_amount are operands, as `inside` and the
    other kernels leave them; then come outputs: of k, q, erase, write `[B, T, H, Dk]`, of a decay by channel as it
    lies; of a head's decay, dt and beta `[P, B, H, T]`, for each block of elements."""
    BLOCKS: tl.constexpr = CHUNK // 16
    RATES: tl.constexpr = BLOCK_K if PER_CHANNEL else 1  # pyright: ignore[reportAssignmentType]
    KEPT: tl.constexpr = p_grad_scores.dtype.element_ty
    i_bh = tl.program_id(1).to(tl.int64)
    i_b, i_h = i_bh // heads, tl.program_id(1) % heads
    i_part, parts = tl.program_id(0) % tl.cdiv(key_dim, BLOCK_K), tl.cdiv(key_dim, BLOCK_K)
    i_chunk, i_sub = tl.program_id(0) // parts // BLOCKS, tl.program_id(0) // parts % BLOCKS
    begin = i_chunk * CHUNK
    first = begin + i_sub * SUB
    o_s, o_k = tl.arange(0, SUB), i_part * BLOCK_K + tl.arange(0, BLOCK_K)
    o_t, m_k = first + o_s, o_k < key_dim
    m_t = tokens_of(p_position, i_b, o_t, o_s < SUB, tokens, count)
    m_next = tokens_of(p_position, i_b, o_t + 1, o_s < SUB - 1, tokens, count)
    o_row = i_b * tokens + o_t
    p_kh, p_qh = p_k + (i_h // shared) * key_dim, p_q + (i_h // shared) * key_dim
    own = i_h * key_dim
    p_wh = p_kh
    if UPDATE == "erase_write":
        p_wh = p_write + own
    b_log = logs(p_log, i_bh, i_b, own, o_t, m_t, log_row, tokens, o_k, m_k, PER_CHANNEL)
    b_next = logs(p_log, i_bh, i_b, own, o_t + 1, m_next, log_row, tokens, o_k, m_k, PER_CHANNEL)
    b_since = running(b_log, False, PER_CHANNEL)
    b_until = running(b_next, True, PER_CHANNEL)
    b_all = tl.sum(b_log, 0)
    b_q, b_k = tile(p_qh, o_row, m_t, q_row, o_k, m_k), tile(p_kh, o_row, m_t, k_row, o_k, m_k)
    b_dt = tl.full((SUB,), 1.0, tl.float32)
    if p_dt is not None:
        b_dt = tl.load(p_dt + i_bh * tokens + o_t, mask=m_t, other=0.0)
    b_solve, b_since_solve, b_write = b_k, b_since, b_k
    if UPDATE == "delta":
        b_beta = tl.load(p_beta + o_row * beta_row + i_h, mask=m_t, other=0.0).to(tl.float32)
        b_solve = b_k * b_beta[:, None]
    if UPDATE == "erase_write":
        m_prior = tokens_of(p_position, i_b, o_t - 1, o_s > 0, tokens, count)
        b_before = logs(p_log, i_bh, i_b, own, o_t - 1, m_prior, log_row, tokens, o_k, m_k, PER_CHANNEL)
        b_since_solve = running(b_before, False, PER_CHANNEL)
        b_solve = -tile(p_erase + own, o_row, m_t, erase_row, o_k, m_k)
        b_write = tile(p_wh, o_row, m_t, write_row, o_k, m_k)
    b_times = b_dt
    if UPDATE == "delta":
        b_times = tl.full((SUB,), 1.0, tl.float32)

    o_square = (i_bh * padded + o_t)[:, None] * CHUNK + i_sub * SUB + o_s[None, :]
    o_key = (i_bh * padded + o_t)[:, None] * key_dim + o_k[None, :]
    m_key = tl.broadcast_to(m_k[None, :], (SUB, BLOCK_K))
    p_whole = p_grad_whole + (i_bh * (padded // CHUNK) + i_chunk) * key_dim + o_k
    b_span = tl.load(p_whole, mask=m_k, other=0.0)
    b_rows, b_rows_solve = tl.zeros((SUB, BLOCK_K), tl.float32), tl.zeros((SUB, BLOCK_K), tl.float32)
    b_cols, b_cols_v = tl.zeros((SUB, BLOCK_K), tl.float32), tl.zeros((SUB, BLOCK_K), tl.float32)

    b_since_begin = tl.zeros((RATES,), tl.float32)
    for n in range(i_sub):
        o_c = first - (n + 1) * SUB + o_s
        b_col, b_col_v, b_log_c = _columns(
            p_kh, p_wh, p_position, p_log, p_dt, b_since_begin, i_bh, i_b, own, o_c, tokens, count, k_row, write_row,
            log_row, o_k, m_k, UPDATE, PER_CHANNEL,
        )  # fmt: skip
        o_to = o_square - (n + 1) * SUB
        b_rows += _pairs(p_grad_scores, o_to, b_col, KEPT, PRECISION)
        if UPDATE != "add":
            b_rows_solve += _pairs(p_grad_system, o_to, b_col, KEPT, PRECISION)
        if UPDATE == "erase_write":
            b_rows += _pairs(p_grad_scores_v, o_to, b_col_v, KEPT, PRECISION)
            b_rows_solve += _pairs(p_grad_feed, o_to, b_col_v, KEPT, PRECISION)
        b_since_begin += tl.sum(b_log_c, 0)
        o_key_c = o_key - (n + 1) * SUB * key_dim
        b_span += _along(p_writes, p_grad_writes, o_key_c, m_key)
        if UPDATE == "erase_write":
            b_span += _along(p_writes_v, p_grad_writes_v, o_key_c, m_key)

    b_until_end = tl.zeros((RATES,), tl.float32)
    for n in range(i_sub + 1, BLOCKS):
        down = (n - i_sub) * SUB
        o_r = o_t + down
        m_r = tokens_of(p_position, i_b, o_r, o_s < SUB, tokens, count)
        b_log_r = logs(p_log, i_bh, i_b, own, o_r, m_r, log_row, tokens, o_k, m_k, PER_CHANNEL)
        b_since_r = running(b_log_r, False, PER_CHANNEL) + b_until_end[None, :]
        b_row = tile(p_qh, i_b * tokens + o_r, m_r, q_row, o_k, m_k) * tl.exp(b_since_r)
        o_down = o_square + down * CHUNK
        b_cols += _back(p_grad_scores, o_down, b_row, KEPT, PRECISION)
        o_key_r = o_key + down * key_dim
        b_span += _along(p_reads, p_grad_reads, o_key_r, m_key)
        b_row_solve = b_row
        if UPDATE == "delta":
            b_beta_r = tl.load(p_beta + (i_b * tokens + o_r) * beta_row + i_h, mask=m_r, other=0.0).to(tl.float32)
            b_row_solve = tile(p_kh, i_b * tokens + o_r, m_r, k_row, o_k, m_k) * b_beta_r[:, None] * tl.exp(b_since_r)
        if UPDATE == "erase_write":
            m_br = tokens_of(p_position, i_b, o_r - 1, o_s > 0, tokens, count)
            b_log_br = logs(p_log, i_bh, i_b, own, o_r - 1, m_br, log_row, tokens, o_k, m_k, PER_CHANNEL)
            b_row_solve = -tile(p_erase + own, i_b * tokens + o_r, m_r, erase_row, o_k, m_k)
            b_row_solve *= tl.exp(running(b_log_br, False, PER_CHANNEL) + b_until_end[None, :])
            b_cols_v += _back(p_grad_scores_v, o_down, b_row, KEPT, PRECISION)
            b_cols_v += _back(p_grad_feed, o_down, b_row_solve, KEPT, PRECISION)
        if UPDATE != "add":
            b_cols += _back(p_grad_system, o_down, b_row_solve, KEPT, PRECISION)
            b_span += _along(p_solves, p_grad_solves, o_key_r, m_key)
        b_over = b_all
        for i in range(i_sub):
            o_c = first - (i + 1) * SUB + o_s
            b_col, b_col_v, b_log_c = _columns(
                p_kh, p_wh, p_position, p_log, p_dt, b_over, i_bh, i_b, own, o_c, tokens, count, k_row, write_row,
                log_row, o_k, m_k, UPDATE, PER_CHANNEL,
            )  # fmt: skip
            o_to = o_down - (i + 1) * SUB
            b_pairs = _pairs(p_grad_scores, o_to, b_col, KEPT, PRECISION)
            if UPDATE == "erase_write":
                b_pairs += _pairs(p_grad_scores_v, o_to, b_col_v, KEPT, PRECISION)
            b_span += tl.sum(b_row * b_pairs, 0)
            if UPDATE != "add":
                b_pairs = _pairs(p_grad_system, o_to, b_col, KEPT, PRECISION)
                if UPDATE == "erase_write":
                    b_pairs += _pairs(p_grad_feed, o_to, b_col_v, KEPT, PRECISION)
                b_span += tl.sum(b_row_solve * b_pairs, 0)
            b_over += tl.sum(b_log_c, 0)
        b_until_end += tl.sum(b_log_r, 0)

    b_read = tl.load(p_grad_reads + o_key, mask=m_key, other=0.0).to(tl.float32)
    b_grad_q = (b_rows + b_read * tl.exp(b_since_begin)[None, :]) * tl.exp(b_since)
    b_written = tl.load(p_grad_writes + o_key, mask=m_key, other=0.0).to(tl.float32)
    b_grad_x = (b_cols + b_written * tl.exp(b_until_end)[None, :]) * tl.exp(b_until)
    m_from, m_after = o_s[:, None] <= o_s[None, :], o_s[:, None] < o_s[None, :]
    m_before = o_s[:, None] > o_s[None, :]
    b_grad_log = _reach(m_from, b_q * b_grad_q, PER_CHANNEL)
    b_over = b_write * b_grad_x
    if UPDATE == "add":
        b_over *= b_times[:, None]
    b_grad_log += _reach(m_before, b_over, PER_CHANNEL)
    b_grad_solve, b_grad_kv = b_rows_solve, b_cols_v
    if UPDATE != "add":
        b_solved = tl.load(p_grad_solves + o_key, mask=m_key, other=0.0).to(tl.float32)
        b_grad_solve = (b_rows_solve + b_solved * tl.exp(b_since_begin)[None, :]) * tl.exp(b_since_solve)
        if UPDATE == "delta":
            m_after = m_from
        b_grad_log += _reach(m_after, b_solve * b_grad_solve, PER_CHANNEL)
    if UPDATE == "erase_write":
        b_written = tl.load(p_grad_writes_v + o_key, mask=m_key, other=0.0).to(tl.float32)
        b_grad_kv = (b_cols_v + b_written * tl.exp(b_until_end)[None, :]) * tl.exp(b_until)
        b_grad_log += _reach(m_before, b_k * b_times[:, None] * b_grad_kv, PER_CHANNEL)
    if PER_CHANNEL:
        b_grad_log += b_span[None, :]
    else:
        b_grad_log += tl.sum(b_span, 0)

    b_in_q, b_in_solve, b_in_x, b_in_kv, b_in_log = _within(
        p_kh, p_wh, p_grad_scores, p_grad_system, p_grad_scores_v, p_grad_feed, b_q, b_solve, b_times, b_next, m_t,
        m_next, i_b * tokens + first, (i_bh * padded + o_t) * CHUNK + i_sub * SUB, k_row, write_row, o_k, m_k,
        UPDATE, PER_CHANNEL,
    )  # fmt: skip
    b_grad_x += b_in_x
    b_grad_solve += b_in_solve
    m_out = (o_t < count)[:, None] & m_k[None, :]
    o_out = (o_row[:, None] * heads + i_h) * key_dim + o_k[None, :]
    o_key_out = ((i_b * key_tokens + o_t)[:, None] * heads + i_h) * key_dim + o_k[None, :]
    _put(p_grad_q, o_key_out, b_grad_q + b_in_q, m_t, m_out)
    b_grad_k = b_grad_x
    b_grad_dt, b_grad_beta = tl.zeros((SUB,), tl.float32), tl.zeros((SUB,), tl.float32)
    if UPDATE == "delta":
        b_grad_k += b_grad_solve * b_beta[:, None]
        b_grad_beta = tl.sum(b_grad_solve * b_k, 1)
        m_once = (o_s < SUB) & (i_part == 0)
        b_amount = tl.load(p_grad_amount + i_bh * padded + o_t, mask=m_once, other=0.0)
        b_grad_beta += b_amount * b_dt
        b_grad_dt = b_amount * b_beta
    if UPDATE == "erase_write":
        _put(p_grad_write, o_out, b_grad_x, m_t, m_out)
        _put(p_grad_erase, o_out, -b_grad_solve, m_t, m_out)
        b_grad_k = b_grad_kv + b_in_kv
    if UPDATE != "delta":
        b_grad_dt = tl.sum(b_grad_k * b_k, 1)
        b_grad_k *= b_dt[:, None]
    _put(p_grad_k, o_key_out, b_grad_k, m_t, m_out)
    o_part = (i_part * tl.num_programs(1) + i_bh) * count + o_t
    if p_dt is not None:
        tl.store(p_grad_dt + o_part, tl.where(m_t, b_grad_dt, 0.0), mask=o_t < count)
    if UPDATE == "delta":
        tl.store(p_grad_beta + o_part, tl.where(m_t, b_grad_beta, 0.0), mask=o_t < count)
    if p_log is not None:
        b_grad_log += b_in_log
        if PER_CHANNEL:
            _put(p_grad_log, o_out, b_grad_log, m_t, m_out)
        else:
            b_grad_log = tl.where(m_t[:, None], b_grad_log, 0.0)
            tl.store(p_grad_log + o_part[:, None], b_grad_log, mask=(o_t < count)[:, None])
