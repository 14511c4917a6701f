"""Scan in chunks in Triton where a state is also erased, or its channels forget at rates of their own.

Gated linear attention, the gated delta rule (Yang et al. 2024, section 3), Kimi's channels (2025) and RWKV-7's
erase and write (Peng et al. 2025): inside a chunk, what is written solves `(I + A) u = right - W S`, so that scores,
inverse and products run for all chunks side by side, and only three products of matrices a chunk wait for the state.
The floor is k, q, v, the decays and the output once. What is made between the kernels is `2 * C + 4 * Dk + Dv` elements
a token and head for the delta rule, of one span of the row at a time (`triton_cut`); the states before its segments are
kept for the gradients.
"""

# pyright: basic
from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ..continued import continued
from ..gpu.gradients import register_gradients
from ..gpu.op import gpu_op, launchable
from ..gpu.sizes import ceil_div, power_of_2
from ..gpu.tuning import Config, Key, Tunable
from ..kernel import Request
from .fields import Scan, ScanFrom
from .operators import DeltaScan, by_reference
from .rates import rates_per_channel, rates_per_head
from .triton_between import between
from .triton_crossing import crossing, pass_on
from .triton_cut import Cut, columns, cut
from .triton_operands import Operands, operands
from .triton_prepared import Prepared, prepare

WIDEST = 256
"""Elements of a key: its part of the state is held in registers."""


def serves(request: Request) -> str | None:
    """None, or why there are no chunks of this form."""
    fields = request.fields
    if request.dtype == "float64":
        return "states are float32"
    if request.phase == "decode":
        return "one token at a time has no chunks"
    if fields.get("update", "add") == "add" and fields.get("decay_per", "none") not in ("state", "token_channel"):
        return "a state that forgets as a whole and is not erased needs no system of equations"
    key_dim, value_dim = fields["key_dim"], fields["value_dim"]
    if not isinstance(key_dim, int) or key_dim > WIDEST:
        return f"a key of {key_dim} elements is longer than {WIDEST}"
    if value_dim == 1:
        return "a state of one column has no matrix products"
    return None


def _rule(key: Key) -> Config:
    taken = columns(int(key["key_dim"]), int(key["value_dim"]))
    return {"BLOCK_V": taken, "num_warps": 8 if taken * int(key["key_dim"]) > 4096 else 4, "num_stages": 2}


def _space(key: Key) -> tuple[Config, ...]:
    return tuple(
        {"BLOCK_V": columns, "num_warps": warps, "num_stages": stages}
        for columns in (16, 32, 64, 128)
        if columns <= max(16, int(key["value_dim"])) and columns * int(key["key_dim"]) <= 16384
        for warps in (4, 8)
        for stages in (1, 2, 3)
    )


BETWEEN = Tunable(name="scan_between", rule=_rule, space=_space)
TUNABLES = (BETWEEN,)


def config(given: Operands, width: int) -> tuple[int, Config]:
    """How a walk takes a state of `width` columns: how many programs, and its block sizes."""
    block_k, taken = max(16, power_of_2(given.key_dim)), max(16, power_of_2(width))
    dtype = str(given.v.dtype).removeprefix("torch.")
    found = BETWEEN.config({"key_dim": block_k, "value_dim": taken, "dtype": dtype})
    return ceil_div(width, found["BLOCK_V"]), {"BLOCK_K": block_k, **found}


def walk(
    made: Prepared, given: Operands, segment: int, initial: Tensor | None, final: Tensor | None, out: Tensor | None,
    states: Tensor | None,
) -> None:  # fmt: skip
    """From chunk to chunk of each segment, from `initial`: writes `out` and `final`, the states after each, where these
    are given; given `states` `[B, H, N, Dk, Dv]`, those before each chunk, and u over made.u."""
    blocks, sizes = config(given, given.value_dim)
    launchable(between)[(blocks, given.batch * given.heads, ceil_div(made.padded, segment))](
        given.v, given.position, given.skip, made.scores, made.scores_v, made.reads, made.writes, made.writes_v, made.w,
        made.u, made.whole, initial, final, out, states, None if states is None else made.u, given.tokens, given.count,
        made.padded, segment // made.chunk, given.heads, given.key_dim, given.value_dim, given.v_row, given.scale,
        UPDATE=given.update, PER_CHANNEL=given.per_channel, CHUNK=made.chunk, **sizes,
    )  # fmt: skip


def cross(
    made: Prepared, given: Operands, segment: int, left: Tensor, states: Tensor, last: Tensor, *, backwards: bool
) -> None:
    """From what each segment alone `left`, `[S, B, H, Dk, Dv]`: the `states` before all, of which the first is there,
    and that after the `last`. Backwards, gradients, from the last segment."""
    side, count = given.batch * given.heads, len(left)
    law = {"PER_CHANNEL": given.per_channel, "BACKWARDS": backwards, "CHUNK": made.chunk}
    matrices = None
    if given.is_solved:
        matrices = left.new_empty((count, given.batch, given.heads, given.key_dim, given.key_dim))
        blocks, sizes = config(given, given.key_dim)
        pair = (made.writes, made.w) if backwards else (made.w, made.writes)
        launchable(crossing)[(blocks, side, count)](
            *pair, made.whole, matrices, made.padded, segment // made.chunk, given.key_dim, **law, **sizes
        )
    _, sizes = config(given, given.value_dim)
    # a matrix lies beside the state in shared memory, so that columns are not those that tuning found for a walk
    taken = min(sizes["BLOCK_V"], columns(given.key_dim, given.value_dim))
    sizes = {**sizes, "BLOCK_V": taken, "num_stages": 1}
    launchable(pass_on)[(ceil_div(given.value_dim, taken), side)](
        left, matrices, made.whole, states, last, made.padded, segment // made.chunk, count, given.key_dim,
        given.value_dim, PRECISION="ieee" if given.v.dtype == torch.float32 else "tf32", **law, **sizes,
    )  # fmt: skip


def cut_of(given: DeltaScan) -> Cut:
    """How the rows of a call are cut, in its forward and its backward pass."""
    batch, heads, key_dim, value_dim = given.state_shape
    return cut(
        tokens=given.position.shape[1],
        heads=batch * heads,
        key_dim=key_dim,
        value_dim=value_dim,
        is_solved=given.update != "add",
    )


def _begun(given: DeltaScan) -> tuple[Tensor, Tensor, Tensor]:
    """What the operator gives, of which the state is as before the row."""
    out, final, starts = _fake(given)
    return out, final.zero_() if given.initial is None else final.copy_(given.initial), starts


def _launch(given: DeltaScan) -> tuple[Tensor, Tensor, Tensor]:
    out, final, starts = _begun(given)
    if not out.numel():
        return out, final, starts
    whole, parts = operands(given), cut_of(given)
    for begin, count in parts.spans():
        span = whole.part(begin, count)
        made = prepare(span, parts.chunk)
        before = parts.of_span(starts.view(-1, *final.shape), begin, count)
        before[0].copy_(final)
        is_crossed = len(before) > 1
        if is_crossed:
            left = torch.empty_like(before)
            walk(made, span, parts.segment, None, left, None, None)
            cross(made, span, parts.segment, left, before, final, backwards=False)
        walk(made, span, parts.segment, before, None if is_crossed else final, out[:, begin:], None)
    return out, final, starts


def _fake(given: DeltaScan) -> tuple[Tensor, Tensor, Tensor]:
    """The output, the state after the row `[B, H, Dk, Dv]`, and those before each segment, `[S * B * H * Dk * Dv]`: in
    one dimension, so that no S is asked whether it is 1 where lengths are symbolic."""
    v, shape = given.v, given.state_shape
    segments = cut_of(given).segments if v.numel() else 0
    final, starts = (v.new_empty(size, dtype=torch.float32) for size in (shape, segments * prod(shape)))
    return torch.empty_like(v, memory_format=torch.contiguous_format), final, starts


def _reference(given: DeltaScan) -> tuple[Tensor, Tensor, Tensor]:
    out, final, starts = _begun(given)
    if not out.numel():
        return out, final, starts
    size = cut_of(given).segment
    for i, before in enumerate(starts.view(-1, *final.shape)):
        before.copy_(final)
        read, after = by_reference(given.part(i * size, size)._replace(initial=final))
        out[:, i * size : (i + 1) * size].copy_(read)
        final.copy_(after)
    return out, final, starts


_scan = gpu_op("scan_delta", _launch, fake=_fake, reference=_reference)


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.key_dim, ctx.value_dim, ctx.update, ctx.per_channel, ctx.scale = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(output[2], *tensors)


def _gradients(ctx, grad: Tensor | None, grad_final: Tensor | None, _: Tensor | None):
    from .triton_delta_backward import scan_delta_backward

    starts, *given = ctx.saved_tensors
    grad = torch.zeros_like(given[0]) if grad is None else grad
    made = scan_delta_backward(
        grad, grad_final, starts, *given, ctx.key_dim, ctx.value_dim, ctx.update, ctx.per_channel, ctx.scale
    )
    made = (*made[:3], None, *made[3:])  # of v, k, q, position, log, dt, beta, erase, write, skip, initial
    taken = (None if x is None or value is None else value.to(x.dtype) for x, value in zip(given, made, strict=True))
    return *taken, None, None, None, None, None


register_gradients(_scan, _gradients, setup_context=_keep)


@continued(Scan, ScanFrom)
def scan(given: Scan, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Arguments and result are those of the reference."""
    log, steps = rates_per_head(given)
    out, final, _ = _scan(
        given.v, given.k, given.q, given.position, rates_per_channel(given) if given.is_per_channel else log, steps,
        given.beta, given.erase, given.write, given.skip, state, given.key_dim, given.value_dim, given.update,
        given.is_per_channel, given.scale,
    )  # fmt: skip
    return out, final
