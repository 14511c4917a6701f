"""Scan in chunks in Triton where a state is also erased, or its channels forget at rates of their own.

Gated linear attention, the gated delta rule (Yang et al. 2024, section 3), Kimi's channels (2025) and RWKV-7's
erase and write (Peng et al. 2025): inside a chunk, what is written solves `(I + A) u = right - W S`, so that scores,
inverse and products run for all chunks side by side, and only three products of matrices a chunk wait for the state.
The floor is k, q, v, the decays and the output once. What is made between the kernels is `2 * C + 4 * Dk + Dv` elements
a token and head for the delta rule.
"""

# pyright: basic
from __future__ import annotations

import torch
from torch import Tensor

from ..gpu.op import gpu_op, launchable
from ..gpu.rows import token_rows
from ..gpu.sizes import ceil_div, power_of_2
from ..gpu.tuning import Config, Key, Tunable
from ..kernel import Request
from . import reference
from .rates import rates_per_channel, rates_per_head
from .reference import DecayForm, DecayShape, ScanState, Update
from .triton_between import between
from .triton_prepared import Prepared, prepare

WIDEST = 256
"""Elements of a key: its part of the state is held in registers."""
PER_CHANNEL = ("state", "token_channel")


def serves(request: Request) -> str | None:
    """None, or why there are no chunks of this form."""
    fields = request.fields
    if request.dtype == "float64":
        return "states are float32"
    if request.phase == "decode":
        return "one token at a time has no chunks"
    if fields.get("update", "add") == "add" and fields.get("decay_per", "none") not in PER_CHANNEL:
        return "a state that forgets as a whole and is not erased needs no system of equations"
    key_dim, value_dim = fields["key_dim"], fields["value_dim"]
    if not isinstance(key_dim, int) or key_dim > WIDEST:
        return f"a key of {key_dim} elements is longer than {WIDEST}"
    if value_dim == 1:
        return "a state of one column has no matrix products"
    return None


def _rule(key: Key) -> Config:
    """At most 32 registers of state a thread."""
    columns = max(16, min(int(key["value_dim"]), 64, 8192 // int(key["key_dim"])))
    return {"BLOCK_V": columns, "num_warps": 8 if columns * int(key["key_dim"]) > 4096 else 4, "num_stages": 2}


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


def walk(
    made: Prepared, v: Tensor, position: Tensor, skip: Tensor | None, initial: Tensor | None, final: Tensor,
    out: Tensor | None, states: Tensor | None, *, key_dim: int, value_dim: int, update: str, per_channel: bool,
    scale: float,
) -> None:  # fmt: skip
    """From chunk to chunk: writes `out` and `final`; or, given `states`, those before each chunk, and u over made.u."""
    (batch, tokens), heads = position.shape, v.shape[-1] // value_dim
    v, v_row = token_rows(v)
    block_k, columns = max(16, power_of_2(key_dim)), max(16, power_of_2(value_dim))
    config = BETWEEN.config({"key_dim": block_k, "value_dim": columns, "dtype": str(v.dtype).removeprefix("torch.")})
    launchable(between)[(ceil_div(value_dim, config["BLOCK_V"]), batch * heads)](
        v, position.contiguous(), skip, made.scores, made.scores_v, made.reads, made.writes, made.writes_v, made.w,
        made.u, made.whole, initial, final, out, states, None if states is None else made.u, tokens, made.padded, heads,
        key_dim, value_dim, v_row, scale, UPDATE=update, PER_CHANNEL=per_channel, CHUNK=made.chunk, BLOCK_K=block_k,
        **config,
    )  # fmt: skip


def _launch(
    v: Tensor, k: Tensor, q: Tensor, position: Tensor, log: Tensor | None, dt: Tensor | None, beta: Tensor | None,
    erase: Tensor | None, write: Tensor | None, skip: Tensor | None, initial: Tensor | None, key_dim: int,
    value_dim: int, update: str, per_channel: bool, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    out, final = _fake(
        v, k, q, position, log, dt, beta, erase, write, skip, initial, key_dim, value_dim, update, per_channel, scale
    )
    initial = None if initial is None else initial.contiguous()
    if not out.numel():
        return out, final.zero_() if initial is None else final.copy_(initial)
    made = prepare(
        v, k, q, position, log, dt, beta, erase, write, key_dim=key_dim, value_dim=value_dim, update=update,
        per_channel=per_channel,
    )  # fmt: skip
    walk(
        made, v, position, skip, initial, final, out, None, key_dim=key_dim, value_dim=value_dim, update=update,
        per_channel=per_channel, scale=scale,
    )  # fmt: skip
    return out, final


def _fake(
    v: Tensor, k: Tensor, q: Tensor, position: Tensor, log: Tensor | None, dt: Tensor | None, beta: Tensor | None,
    erase: Tensor | None, write: Tensor | None, skip: Tensor | None, initial: Tensor | None, key_dim: int,
    value_dim: int, update: str, per_channel: bool, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    shape = (position.shape[0], v.shape[-1] // value_dim, key_dim, value_dim)
    return torch.empty_like(v, memory_format=torch.contiguous_format), v.new_empty(shape, dtype=torch.float32)


def by_reference(
    v: Tensor, k: Tensor, q: Tensor, position: Tensor, log: Tensor | None, dt: Tensor | None, beta: Tensor | None,
    erase: Tensor | None, write: Tensor | None, skip: Tensor | None, initial: Tensor | None, key_dim: int,
    value_dim: int, update: Update, per_channel: bool, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What the operator computes, by the definition, differentiable."""
    shape = (position.shape[0], v.shape[-1] // value_dim, key_dim, value_dim)
    # another tensor than the one that is read, since it is written
    state = v.new_zeros(shape, dtype=torch.float64) if initial is None else initial.double()
    amounts, read = v, v
    if dt is not None:  # its part in the decay is in `log` already
        amounts = (v.unflatten(-1, (shape[1], value_dim)) * dt.transpose(1, 2)[..., None]).flatten(-2).to(v.dtype)
    if log is not None and not per_channel:
        log = log.transpose(1, 2)
    read, _ = reference.scan(
        v=amounts, k=k, q=q, position=position, decay=log, beta=beta, erase=erase, write=write, state=(state,),
        key_dim=key_dim, value_dim=value_dim, update=update, scale=scale,
        decay_per="none" if log is None else "token_channel" if per_channel else "token_head",
    )  # fmt: skip
    if skip is not None:
        more = (v.unflatten(-1, (shape[1], value_dim)) * skip[:, None]).flatten(-2)
        read = read + more.masked_fill((position < 0)[..., None], 0.0)
    return read.contiguous(), state.float()


_scan = gpu_op("scan_delta", _launch, fake=_fake, reference=by_reference)


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.key_dim, ctx.value_dim, ctx.update, ctx.per_channel, ctx.scale = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _gradients(ctx, grad: Tensor | None, grad_final: Tensor | None):
    from .triton_delta_backward import scan_delta_backward

    given = ctx.saved_tensors
    grad = torch.zeros_like(given[0]) if grad is None else grad
    made = scan_delta_backward(
        grad, grad_final, *given, ctx.key_dim, ctx.value_dim, ctx.update, ctx.per_channel, ctx.scale
    )
    made = (*made[:3], None, *made[3:])  # of v, k, q, position, log, dt, beta, erase, write, skip, initial
    taken = (None if x is None or value is None else value.to(x.dtype) for x, value in zip(given, made, strict=True))
    return *taken, None, None, None, None, None


_scan.register_autograd(_gradients, setup_context=_keep)


def scan(
    *, v: Tensor, k: Tensor, q: Tensor, position: Tensor, key_dim: int, value_dim: int, decay: Tensor | None = None,
    dt: Tensor | None = None, beta: Tensor | None = None, erase: Tensor | None = None, write: Tensor | None = None,
    skip: Tensor | None = None, decay_per: DecayShape = "none", decay_form: DecayForm = "log", update: Update = "add",
    scale: float = 1.0, chunk_size: int = 64, state: ScanState | None = None,
) -> Tensor | tuple[Tensor, ScanState]:  # fmt: skip
    """Arguments and result are those of the reference."""
    del chunk_size
    heads, per_channel = v.shape[-1] // value_dim, decay_per in PER_CHANNEL
    log, steps = rates_per_head(
        decay=None if per_channel else decay, dt=dt, position=position, decay_per=decay_per, decay_form=decay_form,
        heads=heads,
    )  # fmt: skip
    if per_channel and decay is not None:
        log = rates_per_channel(
            decay=decay, dt=dt, position=position, decay_per=decay_per, decay_form=decay_form, heads=heads
        )
    initial = None if state is None else state[0].clone() if state[0].requires_grad else state[0]
    out, final = _scan(
        v, k, q, position, log, steps, beta, erase, write, skip, initial, key_dim, value_dim, update, per_channel, scale
    )
    if state is None:
        return out
    state[0].copy_(final)
    return out, state
