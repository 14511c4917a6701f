"""Gradients of the scan in chunks of erased states and of channels with their own decay, in Triton.

What the forward pass made inside its chunks is made again, its states and u are kept this time, and a walk from the
row's end gives the gradient of each; then chunks are on their own: squares of scores, keys, and last what is inside a
chunk. Every sum has its order, and no two programs add to one number. Beyond operands and gradients it holds
`6 * C + 8 * Dk + 2 * Dv + 2 * Dk * Dv / C` elements a token and head for the delta rule, and its launches are ten.
"""

# pyright: basic
from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from ..gpu.op import gpu_op, launchable
from ..gpu.rows import optional_rows, token_rows
from ..gpu.sizes import ceil_div, power_of_2
from . import triton_delta
from .reference import Update
from .triton_between_backward import between_backward, keys_backward, squares_backward, values_backward
from .triton_inside_backward import inside_backward
from .triton_prepared import SUB, prepare

Ten: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
BLOCK = 64
"""Elements of a key or a value that a program of the products takes at once."""


def _launch(
    grad: Tensor, grad_final: Tensor | None, v: Tensor, k: Tensor, q: Tensor, position: Tensor, log: Tensor | None,
    dt: Tensor | None, beta: Tensor | None, erase: Tensor | None, write: Tensor | None, skip: Tensor | None,
    initial: Tensor | None, key_dim: int, value_dim: int, update: str, per_channel: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    given = (v, k, q, position, log, dt, beta, erase, write, skip, initial)
    grads = _fake(grad, grad_final, *given, key_dim, value_dim, update, per_channel, scale)
    grad_v, grad_k, grad_q, grad_log, grad_dt, grad_beta, grad_erase, grad_write, grad_skip, grad_initial = grads
    if not v.numel():
        last = grad_initial.zero_() if grad_final is None else grad_initial.copy_(grad_final)
        return *(made.zero_() for made in grads[:9]), last  # type: ignore[return-value]
    (batch, tokens), heads, groups = position.shape, v.shape[-1] // value_dim, k.shape[-1] // key_dim
    fields = {"key_dim": key_dim, "value_dim": value_dim, "update": update, "per_channel": per_channel}
    made = prepare(v, k, q, position, log, dt, beta, erase, write, **fields)
    kept = torch.bfloat16 if v.dtype == torch.bfloat16 else torch.float32
    states = v.new_empty((batch, heads, made.padded // made.chunk, key_dim, value_dim), dtype=kept)
    start = None if initial is None else initial.contiguous()
    triton_delta.walk(made, v, position, None, start, grad_initial, None, states, scale=scale, **fields)
    (v, v_row), (k, k_row), (q, q_row), (grad, grad_row) = (token_rows(x) for x in (v, k, q, grad))
    (beta, beta_row), (erase, erase_row), (write, write_row) = (optional_rows(x) for x in (beta, erase, write))
    log, log_row = optional_rows(log) if per_channel else (log, 0)
    position = position.contiguous()

    def rows(width: int, *, is_needed: bool = True) -> Tensor | None:
        return v.new_empty((batch, heads, made.padded, width), dtype=kept) if is_needed else None

    is_solved, is_erased = update != "add", update == "erase_write"
    block_k, block_v = max(16, power_of_2(key_dim)), max(16, power_of_2(value_dim))
    side, chunks = batch * heads, made.padded // made.chunk
    precision = {"PRECISION": "ieee" if v.dtype == torch.float32 else "tf32"}
    law = {"UPDATE": update, "CHUNK": made.chunk}
    warps, few = 8 if is_erased else 4, 8 if is_solved and per_channel else 4
    slopes, right = torch.empty_like(states), rows(value_dim)
    end = None if grad_final is None else grad_final.contiguous()
    config = triton_delta.BETWEEN.config(
        {"key_dim": block_k, "value_dim": block_v, "dtype": str(v.dtype).removeprefix("torch.")}
    )
    launchable(between_backward)[(ceil_div(value_dim, config["BLOCK_V"]), side)](
        grad, position, made.scores, made.reads, made.writes, made.w, made.whole, end, slopes, right, grad_initial,
        tokens, made.padded, heads, key_dim, value_dim, grad_row, scale, PER_CHANNEL=per_channel, BLOCK_K=block_k,
        **law, **config,
    )  # fmt: skip
    amounts = v.new_empty((batch, heads, made.padded), dtype=torch.float32) if update == "delta" else None
    sum_skip = v.new_empty((batch, heads, chunks), dtype=torch.float32)
    launchable(values_backward)[(chunks, side)](
        grad, v, position, skip, beta, dt, made.inverse, made.scores_v, made.writes_v, made.feed, slopes, right, grad_v,
        amounts, sum_skip, tokens, made.padded, heads, key_dim, value_dim, grad_row, v_row, beta_row, scale,
        BLOCK_K=block_k, BLOCK_V=min(BLOCK, block_v), num_warps=warps, num_stages=2, **law, **precision,
    )  # fmt: skip
    scores, system = rows(made.chunk), rows(made.chunk, is_needed=is_solved)
    scores_v, feed = (rows(made.chunk, is_needed=is_erased) for _ in range(2))
    launchable(squares_backward)[(chunks, side)](
        grad, v, position, made.u, right, scores, system, scores_v, feed, tokens, made.padded, heads, value_dim,
        grad_row, v_row, scale, BLOCK_V=min(BLOCK, block_v), num_warps=4, num_stages=2, **law, **precision,
    )  # fmt: skip
    reads, writes = rows(key_dim), rows(key_dim)
    solves, writes_v = rows(key_dim, is_needed=is_solved), rows(key_dim, is_needed=is_erased)
    whole = v.new_empty((batch, heads, chunks, key_dim), dtype=torch.float32)
    parts = ceil_div(key_dim, BLOCK)
    launchable(keys_backward)[(chunks * parts, side)](
        grad, v, position, made.u, right, made.whole, states, slopes, reads, solves, writes, writes_v, whole, tokens,
        made.padded, heads, key_dim, value_dim, grad_row, v_row, scale, PER_CHANNEL=per_channel,
        BLOCK_K=min(BLOCK, block_k), BLOCK_V=min(BLOCK, block_v), num_warps=warps, num_stages=2, **law, **precision,
    )  # fmt: skip
    by_head = (batch, tokens, heads, key_dim)
    sum_k, sum_q = grad_k, grad_q
    if heads > groups:
        sum_k, sum_q = (v.new_empty(by_head, dtype=torch.float32) for _ in range(2))
    sum_dt, sum_beta, sum_log = (v.new_empty((parts, batch, heads, tokens), dtype=torch.float32) for _ in range(3))
    launchable(inside_backward)[(made.padded // SUB * parts, side)](
        k, q, position, log, dt, beta, erase, write, made.reads, made.solves, made.writes, made.writes_v,
        scores, system, scores_v, feed, reads, solves, writes, writes_v, whole, amounts,
        sum_k, sum_q, grad_log if per_channel else sum_log, sum_dt, sum_beta, grad_erase, grad_write,
        tokens, made.padded, heads, heads // groups, key_dim, k_row, q_row, log_row, beta_row, erase_row, write_row,
        PER_CHANNEL=per_channel, BLOCK_K=min(BLOCK, block_k), num_warps=few, **law, **precision,
    )  # fmt: skip
    if heads > groups:
        for total, part in ((grad_k, sum_k), (grad_q, sum_q)):
            total.copy_(part.view(batch, tokens, groups, -1, key_dim).sum(3).flatten(2))
    if log is not None and not per_channel:
        grad_log.copy_(sum_log.sum(0))
    if dt is not None:
        grad_dt.copy_(sum_dt.sum(0))
    if beta is not None:
        grad_beta.copy_(sum_beta.sum(0).transpose(1, 2))
    if skip is not None:
        grad_skip.copy_(sum_skip.sum((0, 2)))
    return grads


def _fake(
    grad: Tensor, grad_final: Tensor | None, v: Tensor, k: Tensor, q: Tensor, position: Tensor, log: Tensor | None,
    dt: Tensor | None, beta: Tensor | None, erase: Tensor | None, write: Tensor | None, skip: Tensor | None,
    initial: Tensor | None, key_dim: int, value_dim: int, update: str, per_channel: bool, scale: float,
) -> Ten:  # fmt: skip
    """Of v, k, q, log, dt, beta, erase, write, skip, initial; empty where the operand is absent, but for the last."""
    made = tuple(
        v.new_empty(0) if x is None else x.new_empty(x.shape) for x in (v, k, q, log, dt, beta, erase, write, skip)
    )
    shape = (position.shape[0], v.shape[-1] // value_dim, key_dim, value_dim)
    return *made, v.new_empty(shape, dtype=torch.float32)  # type: ignore[return-value]


def _reference(
    grad: Tensor, grad_final: Tensor | None, v: Tensor, k: Tensor, q: Tensor, position: Tensor, log: Tensor | None,
    dt: Tensor | None, beta: Tensor | None, erase: Tensor | None, write: Tensor | None, skip: Tensor | None,
    initial: Tensor | None, key_dim: int, value_dim: int, update: Update, per_channel: bool, scale: float,
) -> Ten:  # fmt: skip
    grads = _fake(
        grad, grad_final, v, k, q, position, log, dt, beta, erase, write, skip, initial, key_dim, value_dim, update,
        per_channel, scale,
    )  # fmt: skip
    begin = torch.zeros_like(grads[9]) if initial is None else initial
    given = {
        "v": v, "k": k, "q": q, "log": log, "dt": dt, "beta": beta, "erase": erase, "write": write, "skip": skip,
        "initial": begin,
    }  # fmt: skip
    leaves = {name: x.float() for name, x in given.items() if x is not None}

    def run(leaves: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        every = [leaves.get(name) for name in given]
        found = (*every[:3], position, *every[3:], key_dim, value_dim, update, per_channel, scale)
        return triton_delta.by_reference(*found)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    last = torch.zeros_like(begin) if grad_final is None else grad_final
    (found,) = torch.func.vjp(run, leaves)[1]((grad.float(), last.float()))
    for name, made in zip(given, grads, strict=True):
        if name in found:
            made.copy_(found[name])
    return grads


scan_delta_backward = gpu_op("scan_delta_backward", _launch, fake=_fake, reference=_reference)
