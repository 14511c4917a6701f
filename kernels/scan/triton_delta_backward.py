"""Gradients of the scan in chunks of erased states and of channels with their own decay, in Triton.

Spans of the row are taken from its end. What the forward pass made inside a span's chunks is made again, from the
states that it kept before the segments; states and u are kept this time, and a walk from the span's end gives the
gradient of each; then chunks are on their own: squares of scores, keys, and last what is inside a chunk. Every sum has
its order, and no two programs add to one number. Beyond operands and gradients it holds, of one span and for the delta
rule, `6 * C + 8 * Dk + 2 * Dv + 2 * Dk * Dv / C` elements a token and head; its launches are ten for each span.
"""

# pyright: basic
from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ..gpu.op import gpu_op, launchable
from ..gpu.rows import token_rows
from ..gpu.sizes import ceil_div, power_of_2
from . import triton_delta
from .operators import DeltaScan, by_reference
from .triton_between_backward import between_backward, keys_backward, squares_backward, values_backward
from .triton_cut import SUB, Cut
from .triton_inside_backward import inside_backward
from .triton_operands import Operands, operands
from .triton_prepared import Prepared, prepare

Ten: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
OF = ("v", "k", "q", "log", "dt", "beta", "erase", "write", "skip", "initial")
"""The operands that have gradients."""
BLOCK = 64
"""Elements of a key or a value that a program of the products takes at once."""


@dataclass(frozen=True, slots=True)
class Gradients:
    """Of a span of tokens: views of what the operator gives, written; of skip, added to; of the state, carried."""

    v: Tensor
    k: Tensor
    q: Tensor
    log: Tensor
    dt: Tensor
    beta: Tensor
    erase: Tensor
    write: Tensor
    skip: Tensor
    state: Tensor
    """Of the state after the span, then of that before it, `[B, H, Dk, Dv]` float32."""


def _launch(grad: Tensor, grad_final: Tensor | None, starts: Tensor, given: DeltaScan) -> Ten:
    v, log = given.v, given.log
    grads = _fake(grad, grad_final, starts, given)
    grads[9].zero_() if grad_final is None else grads[9].copy_(grad_final)
    if not v.numel():
        return *(made.zero_() for made in grads[:9]), grads[9]  # type: ignore[return-value]
    whole, parts = operands(given), triton_delta.cut_of(given)
    grad, grad_row = token_rows(grad)
    sum_skip = v.new_zeros(given.state_shape[:2], dtype=torch.float32)
    for begin, count in reversed(parts.spans()):
        own = slice(begin, begin + count)
        by_token = [made[:, own] if made.numel() else made for made in grads[:8]]
        by_token[3:5] = [made[..., own] if made.numel() else made for made in grads[3:5]]
        if given.per_channel and log is not None:
            by_token[3] = grads[3][:, own]
        before = parts.of_span(starts.view(-1, *grads[9].shape), begin, count)
        made = Gradients(*by_token, sum_skip, grads[9])  # pyright: ignore[reportCallIssue]
        _span(whole.part(begin, count), parts, before, grad[:, own], grad_row, made)
    if given.skip is not None:
        grads[8].copy_(sum_skip.sum(0))
    return grads


def _span(given: Operands, parts: Cut, before: Tensor, grad: Tensor, grad_row: int, grads: Gradients) -> None:
    """The gradients of one span, from the states before its segments, `[S, B, H, Dk, Dv]`."""
    made = prepare(given, parts.chunk)
    kept = torch.bfloat16 if given.v.dtype == torch.bfloat16 else torch.float32
    chunks, side = made.padded // made.chunk, given.batch * given.heads
    heads, key_dim, value_dim = given.heads, given.key_dim, given.value_dim

    def rows(width: int, *, is_needed: bool = True) -> Tensor | None:
        return given.v.new_empty((given.batch, heads, made.padded, width), dtype=kept) if is_needed else None

    states = given.v.new_empty((given.batch, heads, chunks, key_dim, value_dim), dtype=kept)
    triton_delta.walk(made, given, parts.segment, before, None, None, states)
    slopes, right = torch.empty_like(states), rows(value_dim)
    _walk_back(made, given, parts.segment, len(before), grad, grad_row, slopes, right, grads.state)
    block_k, block_v = max(16, power_of_2(key_dim)), max(16, power_of_2(value_dim))
    precision = {"PRECISION": "ieee" if given.v.dtype == torch.float32 else "tf32"}
    law, sizes = {"UPDATE": given.update, "CHUNK": made.chunk}, (given.tokens, given.count, made.padded, heads)
    warps = 8 if given.is_erased else 4
    amounts = given.v.new_empty((given.batch, heads, made.padded), dtype=torch.float32)
    sum_skip = given.v.new_empty((given.batch, heads, chunks), dtype=torch.float32)
    launchable(values_backward)[(chunks, side)](
        grad, given.v, given.position, given.skip, given.beta, given.dt, made.inverse, made.scores_v, made.writes_v,
        made.feed, slopes, right, grads.v, amounts if given.update == "delta" else None, sum_skip, *sizes, key_dim,
        value_dim, grad_row, given.v_row, given.beta_row, given.scale, BLOCK_K=block_k, BLOCK_V=min(BLOCK, block_v),
        num_warps=warps, num_stages=2, **law, **precision,
    )  # fmt: skip
    if given.skip is not None:
        grads.skip.add_(sum_skip.sum(2))
    scores, system = rows(made.chunk), rows(made.chunk, is_needed=given.is_solved)
    scores_v, feed = (rows(made.chunk, is_needed=given.is_erased) for _ in range(2))
    launchable(squares_backward)[(chunks, side)](
        grad, given.v, given.position, made.u, right, scores, system, scores_v, feed, *sizes, value_dim, grad_row,
        given.v_row, given.scale, BLOCK_V=min(BLOCK, block_v), num_warps=4, num_stages=2, **law, **precision,
    )  # fmt: skip
    reads, writes = rows(key_dim), rows(key_dim)
    solves, writes_v = rows(key_dim, is_needed=given.is_solved), rows(key_dim, is_needed=given.is_erased)
    whole = given.v.new_empty((given.batch, heads, chunks, key_dim), dtype=torch.float32)
    blocks = ceil_div(key_dim, BLOCK)
    launchable(keys_backward)[(chunks * blocks, side)](
        grad, given.v, given.position, made.u, right, made.whole, states, slopes, reads, solves, writes, writes_v,
        whole, *sizes, key_dim, value_dim, grad_row, given.v_row, given.scale, PER_CHANNEL=given.per_channel,
        BLOCK_K=min(BLOCK, block_k), BLOCK_V=min(BLOCK, block_v), num_warps=warps, num_stages=2, **law, **precision,
    )  # fmt: skip
    sum_k, sum_q, is_shared = grads.k, grads.q, heads > given.groups
    if is_shared:
        shape = (given.batch, given.count, heads, key_dim)
        sum_k, sum_q = (given.v.new_empty(shape, dtype=torch.float32) for _ in range(2))
    shape = (blocks, given.batch, heads, given.count)
    sum_dt, sum_beta, sum_log = (given.v.new_empty(shape, dtype=torch.float32) for _ in range(3))
    launchable(inside_backward)[(made.padded // SUB * blocks, side)](
        given.k, given.q, given.position, given.log, given.dt, given.beta, given.erase, given.write, made.reads,
        made.solves, made.writes, made.writes_v, scores, system, scores_v, feed, reads, solves, writes, writes_v, whole,
        amounts if given.update == "delta" else None, sum_k, sum_q, grads.log if given.per_channel else sum_log, sum_dt,
        sum_beta, grads.erase, grads.write, given.tokens, given.count if is_shared else given.tokens, given.count,
        made.padded, heads, heads // given.groups, key_dim, given.k_row, given.q_row, given.log_row, given.beta_row,
        given.erase_row, given.write_row, PER_CHANNEL=given.per_channel, BLOCK_K=min(BLOCK, block_k),
        num_warps=8 if given.is_solved and given.per_channel else 4, **law, **precision,
    )  # fmt: skip
    if is_shared:
        for total, part in ((grads.k, sum_k), (grads.q, sum_q)):
            total.copy_(part.view(given.batch, given.count, given.groups, -1, key_dim).sum(3).flatten(2))
    if given.log is not None and not given.per_channel:
        grads.log.copy_(sum_log.sum(0))
    if given.dt is not None:
        grads.dt.copy_(sum_dt.sum(0))
    if given.beta is not None:
        grads.beta.copy_(sum_beta.sum(0).transpose(1, 2))


def _walk_back(
    made: Prepared, given: Operands, segment: int, segments: int, grad: Tensor, grad_row: int, slopes: Tensor,
    right: Tensor | None, state: Tensor,
) -> None:  # fmt: skip
    """The gradients of the state after each chunk and of u; `state`, that of the last state, becomes the first's."""
    blocks, sizes = triton_delta.config(given, given.value_dim)

    def walk(after: Tensor | None, before: Tensor | None, slopes: Tensor | None, right: Tensor | None) -> None:
        launchable(between_backward)[(blocks, given.batch * given.heads, segments)](
            grad, given.position, made.scores, made.reads, made.writes, made.w, made.whole, after, slopes, right,
            before, given.tokens, given.count, made.padded, segment // made.chunk, given.heads, given.key_dim,
            given.value_dim, grad_row, given.scale, UPDATE=given.update, PER_CHANNEL=given.per_channel,
            CHUNK=made.chunk, **sizes,
        )  # fmt: skip

    after = state.new_empty((segments, *state.shape))
    after[-1].copy_(state)
    if segments > 1:
        left = torch.empty_like(after)
        walk(None, left, None, None)
        triton_delta.cross(made, given, segment, left, after, state, backwards=True)
    walk(after, state if segments == 1 else None, slopes, right)


def _fake(grad: Tensor, grad_final: Tensor | None, starts: Tensor, given: DeltaScan) -> Ten:
    """Of v, k, q, log, dt, beta, erase, write, skip, initial; empty where the operand is absent, but for the last."""
    operands = given._asdict()
    taken = (operands[name] for name in OF[:-1])
    made = tuple(given.v.new_empty(0) if x is None else x.new_empty(x.shape) for x in taken)
    return *made, given.v.new_empty(given.state_shape, dtype=torch.float32)  # type: ignore[return-value]


def _reference(grad: Tensor, grad_final: Tensor | None, starts: Tensor, given: DeltaScan) -> Ten:
    grads = _fake(grad, grad_final, starts, given)
    begin = torch.zeros_like(grads[9]) if given.initial is None else given.initial
    operands = given._replace(initial=begin)._asdict()
    leaves = {name: operands[name].float() for name in OF if operands[name] is not None}

    def run(leaves: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return by_reference(given._replace(**leaves))

    last = torch.zeros_like(begin) if grad_final is None else grad_final
    (found,) = torch.func.vjp(run, leaves)[1]((grad.float(), last.float()))
    for name, made in zip(OF, grads, strict=True):
        if name in found:
            made.copy_(found[name])
    return grads


scan_delta_backward = gpu_op("scan_delta_backward", _launch, fake=_fake, reference=_reference)
