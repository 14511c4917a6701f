"""`latent_attend_cached` for a decode step in Triton: attention in the latents' own space, each of them read once.

The key half of the up-projection is multiplied into the query and the value half into the result, as in `absorbed`; in
between, all heads are rows over one key, the latent with its rotated part, and one value, the latent itself. A tile of
latents serves both products. Floor: the bytes of the filled part of the cache, `(R + Dr)` numbers a token, beside those
of the up-projection; with 128 heads, 240 operations a byte come near the other limit, so that rows are taken by 64.
"""

# pyright: basic, reportGeneralTypeIssues=false
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..attention.reference import attend_cached
from ..attention.triton_combine import combine, shares_of
from ..attention.triton_scores import seen_range
from ..attention.triton_shares import SCAN, seen_blocks
from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..gpu.target import KIB, launch_target
from ..gpu.tuning import Config, Key, Tunable
from ..kernel import Request
from ..record import called_with
from .fields import LatentAttendCached

LOG2_E = tl.constexpr(1.4426950408889634)
WIDEST_LATENT, WIDEST_ROPE = 512, 128


def serves(request: Request) -> str | None:
    """None, or the limit that the node is beyond."""
    if request.phase != "decode":
        return "attention in the space of the latents pays for few queries only"
    if request.dtype == "float64":
        return "sums are float32"
    for port, widest in (("latents", WIDEST_LATENT), ("k_ropes", WIDEST_ROPE)):
        width = request.shapes[port][-1]
        if not isinstance(width, int) or width > widest:
            return f"{port} of {width} are wider than {widest}"
    return None


@triton.jit
def latent_kernel(
    p_q, p_q_rope, p_latents, p_ropes, p_at, p_position, p_out, p_lse, tokens, heads, slots, shares, scale,
    stride_qb, stride_qt, stride_qh, stride_eb, stride_et, stride_lb, stride_ls, stride_rb, stride_rs, stride_ab,
    stride_as, stride_pb, stride_pt,
    RANK: tl.constexpr, ROPE: tl.constexpr, IS_WHOLE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_E: tl.constexpr, SCAN_BLOCKS: tl.constexpr,
):  # fmt: skip
    """One share of the latents for a tile of rows (head, token)."""
    i_share, i_tile, i_batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    o_row = i_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    m_row = o_row < heads * tokens
    o_head, o_token = o_row // tokens, o_row % tokens
    o_r, o_e, o_n = tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_N)
    m_r, m_e = o_r < RANK, o_e < ROPE

    p_position += i_batch * stride_pb
    b_position = tl.load(p_position + o_token * stride_pt, mask=m_row, other=-1).to(tl.int32)
    b_first, b_end = seen_range(b_position, 0, 0, True, False, False)
    p_at += i_batch * stride_ab
    low, high = seen_blocks(
        p_at, stride_as, slots, shares, i_share, tl.min(b_first, 0), tl.max(b_end, 0), BLOCK_N, SCAN_BLOCKS
    )

    p_rows = p_q + i_batch * stride_qb + o_token[:, None] * stride_qt + o_head[:, None].to(tl.int64) * stride_qh
    b_q = tl.load(p_rows + o_r[None, :], mask=m_row[:, None] & m_r[None, :], other=0.0)
    p_rows = p_q_rope + i_batch * stride_eb + o_token[:, None] * stride_et + o_head[:, None] * ROPE
    b_q_rope = tl.load(p_rows + o_e[None, :], mask=m_row[:, None] & m_e[None, :], other=0.0)
    b_top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    b_sum = tl.zeros((BLOCK_M,), tl.float32)
    b_out = tl.zeros((BLOCK_M, BLOCK_R), tl.float32)
    p_latents += i_batch * stride_lb
    p_ropes += i_batch * stride_rb

    for i_block in range(low, high):
        o_slot = (i_block * shares + i_share) * BLOCK_N + o_n
        m_slot = o_slot < slots
        b_at = tl.load(p_at + o_slot * stride_as, mask=m_slot, other=-1).to(tl.int32)
        p_block = p_latents + o_slot.to(tl.int64)[:, None] * stride_ls + o_r[None, :]
        b_latent = tl.load(p_block, mask=m_slot[:, None] & m_r[None, :], other=0.0)
        p_block = p_ropes + o_slot.to(tl.int64)[:, None] * stride_rs + o_e[None, :]
        b_rope = tl.load(p_block, mask=m_slot[:, None] & m_e[None, :], other=0.0)
        b_score = tl.dot(b_q, tl.trans(b_latent), input_precision="ieee")
        b_score = tl.dot(b_q_rope, tl.trans(b_rope), b_score, input_precision="ieee")
        m_seen = (b_at[None, :] < b_end[:, None]) & (b_at >= 0)[None, :]
        b_score = tl.where(m_seen, b_score * (scale * LOG2_E), float("-inf"))
        b_new = tl.maximum(b_top, tl.max(b_score, 1))
        b_base = tl.where(b_new == float("-inf"), 0.0, b_new)
        b_weight = tl.exp2(b_score - b_base[:, None])
        b_keep = tl.exp2(b_top - b_base)
        b_top = b_new
        b_sum = b_sum * b_keep + tl.sum(b_weight, 1)
        b_out = b_out * b_keep[:, None]
        b_out = tl.dot(b_weight.to(b_latent.dtype), b_latent, b_out, input_precision="ieee")

    b_out = b_out / tl.where(b_sum > 0.0, b_sum, 1.0)[:, None]
    if IS_WHOLE:
        p_out += i_batch * tokens * heads * RANK
        o_out = (o_token * heads + o_head) * RANK
        m_out = m_row
    else:
        o_part = (o_head * tokens + o_token) * shares + i_share
        p_lse += i_batch * heads * tokens * shares
        p_out += i_batch * heads * tokens * shares * RANK
        tl.store(p_lse + o_part, b_top + tl.log2(tl.where(b_sum > 0.0, b_sum, 1.0)), mask=m_row)
        o_out = o_part * RANK
        m_out = m_row & (b_sum > 0.0)
    p_rows = p_out + o_out[:, None] + o_r[None, :]
    tl.store(p_rows, b_out.to(p_out.dtype.element_ty), mask=m_out[:, None] & m_r[None, :])


def block_bytes(key: Key, config: Config) -> int:
    """Shared memory of a program: queries, and latents in stages, one of them in registers before sm_90.

    On sm_100 sums pass through it too, as wide as the queries.
    """
    target = launch_target()
    held = config["num_stages"] - (target.shared_memory < 200 * KIB)  # sm_120 multiplies as sm_8x do
    rows = config["BLOCK_M"] * (2 if target.architecture == "sm_100" else 1)
    return (rows + held * config["BLOCK_N"]) * int(key["width"]) * int(key["itemsize"]) + 5 * KIB


def _rule(key: Key) -> Config:
    """A stage of latents of at most 36 KiB for all rows; where that does not fit, fewer latents, then fewer rows."""
    rows, limit = int(key["rows"]), launch_target().shared_memory
    most = 36 * KIB // (int(key["width"]) * int(key["itemsize"]))
    most = max(16, min(128, power_of_2(most + 1) // 2))
    tried = (
        {"BLOCK_M": m, "BLOCK_N": n, "num_warps": 8 if m > 16 else 4, "num_stages": stages}
        for m in (64, 32, 16)
        for n in (128, 64, 32, 16)
        for stages in (3, 2)
        if m <= rows and n <= most
    )
    fitting = (config for config in tried if block_bytes(key, config) <= limit)
    found = next(fitting, {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 4, "num_stages": 1})
    return {**found, "PROGRAMS": max(1, min(2, limit // block_bytes(key, found))) if found["BLOCK_M"] == 16 else 1}


def _space(key: Key) -> tuple[Config, ...]:
    """What tuning tries: blocks, warps, stages and programs a multiprocessor."""
    rule = _rule(key)
    return (
        rule,
        *(
            {**rule, "BLOCK_N": block, "num_warps": warps, "num_stages": stages, "PROGRAMS": programs}
            for block in (rule["BLOCK_N"] // 2, rule["BLOCK_N"], rule["BLOCK_N"] * 2)
            for warps in (4, 8)
            for stages in (2, 3)
            for programs in (1, 2)
            if block >= 16
        ),
    )


LATENT_SHARES = Tunable(name="latent_shares", rule=_rule, space=_space)
TUNABLES = (LATENT_SHARES,)


def _launch(
    q: Tensor, q_rope: Tensor, latents: Tensor, k_ropes: Tensor, key_position: Tensor, position: Tensor, scale: float
) -> Tensor:
    q, q_rope, latents, k_ropes = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, q_rope, latents, k_ropes))
    (batch, tokens, heads, rank), slots, rope = q.shape, latents.shape[2], k_ropes.shape[3]
    out = q.new_empty((batch, tokens, heads * rank))
    if not out.numel():
        return out
    if not slots:
        return out.zero_()
    rows = heads * tokens
    key = {"width": rank + rope, "itemsize": latents.itemsize, "rows": 16 if rows <= 16 else 64}
    config = dict(LATENT_SHARES.config(key))
    block_m, block, per_multiprocessor = (config.pop(name) for name in ("BLOCK_M", "BLOCK_N", "PROGRAMS"))
    tiles = ceil_div(rows, block_m)
    shares = shares_of(ceil_div(slots, block), batch * tiles, per_multiprocessor, q.device.index)
    lse = part = None
    if shares > 1:
        part = q.new_empty((batch, heads, tokens, shares, rank), dtype=torch.float32)
        lse = q.new_empty((batch, heads, tokens, shares), dtype=torch.float32)
    launchable(latent_kernel)[(shares, tiles, batch)](
        q, q_rope, latents, k_ropes, key_position, position, out if part is None else part, lse, tokens, heads, slots,
        shares, scale, *q.stride()[:3], *q_rope.stride()[:2], latents.stride(0), latents.stride(2), k_ropes.stride(0),
        k_ropes.stride(2), *key_position.stride(), *position.stride(), RANK=rank, ROPE=rope, IS_WHOLE=part is None,
        BLOCK_M=block_m, BLOCK_N=block, BLOCK_R=max(16, power_of_2(rank)), BLOCK_E=max(16, power_of_2(rope)),
        SCAN_BLOCKS=max(1, min(SCAN // block, power_of_2(ceil_div(ceil_div(slots, block), shares)))), **config,
    )  # fmt: skip
    if part is not None and lse is not None:
        combine(part, lse, out, heads)
    return out


def _fake(
    q: Tensor, q_rope: Tensor, latents: Tensor, k_ropes: Tensor, key_position: Tensor, position: Tensor, scale: float
) -> Tensor:
    return q.new_empty((*q.shape[:2], q.shape[2] * q.shape[3]))


def _reference(
    q: Tensor, q_rope: Tensor, latents: Tensor, k_ropes: Tensor, key_position: Tensor, position: Tensor, scale: float
) -> Tensor:
    both = torch.cat((q, q_rope.view(*q.shape[:3], -1)), dim=-1)
    return attend_cached(
        q=both.flatten(-2), keys=torch.cat((latents, k_ropes), dim=-1), values=latents, key_position=key_position,
        position=position, head_dim=both.shape[-1], v_head_dim=latents.shape[-1], scale=scale,
    )  # fmt: skip


_attend = gpu_op("latent_attend_decode", _launch, fake=_fake, reference=_reference)


@called_with(LatentAttendCached)
def latent_attend_cached(given: LatentAttendCached) -> Tensor:
    """Arguments and result are those of the reference, without gradients.

    In a half precision the query in the latents' space, and what it makes of them, are rounded to it.
    """
    (batch, tokens), rank, nope = given.position.shape, given.latents.shape[-1], given.nope_head_dim
    up = given.kv_up.view(-1, nope + given.v_head_dim, rank)  # [H, Dn + Dv, R]
    by_head = given.q_nope.reshape(batch * tokens, -1, nope).transpose(0, 1)  # [H, B*T, Dn]
    q = torch.bmm(by_head, up[:, :nope])  # [H, B*T, R]
    q = q.view(-1, batch, tokens, rank).permute(1, 2, 0, 3)  # [B, T, H, R]
    out = _attend(
        q, given.q_rope, given.latents, given.k_ropes, given.key_position, given.position, given.factor
    )  # [B, T, H*R]
    by_head = out.view(batch * tokens, -1, rank).transpose(0, 1)  # [H, B*T, R]
    out = torch.bmm(by_head, up[:, nope:].transpose(1, 2))  # [H, B*T, Dv]
    return out.transpose(0, 1).reshape(batch, tokens, -1)
