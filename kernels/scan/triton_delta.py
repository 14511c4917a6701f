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
from ..gpu.rows import optional_rows, token_rows
from ..gpu.sizes import ceil_div, power_of_2
from ..gpu.tuning import Config, Key, Tunable
from ..kernel import Request
from . import reference
from .rates import rates_per_channel, rates_per_head
from .reference import DecayForm, DecayShape, ScanState, Update
from .triton_between import between, solved
from .triton_inside import inside, invert

CHUNK = 64
SUB = 16
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
    if request.phase == "train":
        return "no gradients"
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
    (batch, tokens), heads, groups = position.shape, v.shape[-1] // value_dim, k.shape[-1] // key_dim
    (v, v_row), (k, k_row), (q, q_row), position = token_rows(v), token_rows(k), token_rows(q), position.contiguous()
    (beta, beta_row), (erase, erase_row), (write, write_row) = (optional_rows(x) for x in (beta, erase, write))
    log, log_row = optional_rows(log) if per_channel else (log, 0)
    chunk = min(CHUNK, max(SUB, power_of_2(tokens)))
    padded = ceil_div(tokens, chunk) * chunk
    block_k, columns = max(16, power_of_2(key_dim)), max(16, power_of_2(value_dim))

    def scratch(width: int, *, is_needed: bool = True, dtype: torch.dtype = v.dtype) -> Tensor | None:
        return v.new_empty((batch, heads, padded, width), dtype=dtype) if is_needed else None

    is_solved, is_erased = update != "add", update == "erase_write"
    scores, reads, writes = scratch(chunk), scratch(key_dim), scratch(key_dim)
    system = scratch(chunk, is_needed=is_solved, dtype=torch.float32)
    solves, w, u = (scratch(width, is_needed=is_solved) for width in (key_dim, key_dim, value_dim))
    scores_v, feed = scratch(chunk, is_needed=is_erased), scratch(chunk, is_needed=is_erased)
    writes_v = scratch(key_dim, is_needed=is_erased)
    whole = v.new_empty(batch, heads, padded // chunk, key_dim if per_channel else 1, dtype=torch.float32)
    sizes = {"UPDATE": update, "CHUNK": chunk, "BLOCK_K": block_k}
    launchable(inside)[(padded // SUB, batch * heads)](
        k, q, position, log, dt, beta, erase, write, scores, system, scores_v, feed, reads, solves, writes, writes_v,
        whole, tokens, padded, heads, heads // groups, key_dim, k_row, q_row, log_row, beta_row, erase_row, write_row,
        PER_CHANNEL=per_channel, num_warps=4, **sizes,
    )  # fmt: skip
    if is_solved:
        launchable(invert)[(padded // chunk, batch * heads)](system, padded, CHUNK=chunk, num_warps=2)
        launchable(solved)[(padded // chunk, batch * heads)](
            system, solves, feed, v, position, beta, dt, w, u, tokens, padded, heads, key_dim, value_dim, v_row,
            beta_row, BLOCK_V=min(64, columns), num_warps=4, **sizes,
        )  # fmt: skip
    config = BETWEEN.config({"key_dim": block_k, "value_dim": columns, "dtype": str(v.dtype).removeprefix("torch.")})
    launchable(between)[(ceil_div(value_dim, config["BLOCK_V"]), batch * heads)](
        v, position, skip, scores, scores_v, reads, writes, writes_v, w, u, whole, initial, final, out, tokens, padded,
        heads, key_dim, value_dim, v_row, scale, PER_CHANNEL=per_channel, **sizes, **config,
    )  # fmt: skip
    return out, final


def _fake(
    v: Tensor, k: Tensor, q: Tensor, position: Tensor, log: Tensor | None, dt: Tensor | None, beta: Tensor | None,
    erase: Tensor | None, write: Tensor | None, skip: Tensor | None, initial: Tensor | None, key_dim: int,
    value_dim: int, update: str, per_channel: bool, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    shape = (position.shape[0], v.shape[-1] // value_dim, key_dim, value_dim)
    return torch.empty_like(v, memory_format=torch.contiguous_format), v.new_empty(shape, dtype=torch.float32)


def _reference(
    v: Tensor, k: Tensor, q: Tensor, position: Tensor, log: Tensor | None, dt: Tensor | None, beta: Tensor | None,
    erase: Tensor | None, write: Tensor | None, skip: Tensor | None, initial: Tensor | None, key_dim: int,
    value_dim: int, update: Update, per_channel: bool, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    shape = (position.shape[0], v.shape[-1] // value_dim, key_dim, value_dim)
    state = v.new_zeros(shape, dtype=torch.float32) if initial is None else initial.clone()
    amounts, read = v, v
    if dt is not None:  # its part in the decay is in `log` already
        amounts = (v.unflatten(-1, (shape[1], -1)) * dt.transpose(1, 2)[..., None]).flatten(-2).to(v.dtype)
    if log is not None and not per_channel:
        log = log.transpose(1, 2)
    read, _ = reference.scan(
        v=amounts, k=k, q=q, position=position, decay=log, beta=beta, erase=erase, write=write, state=(state,),
        key_dim=key_dim, value_dim=value_dim, update=update, scale=scale,
        decay_per="none" if log is None else "token_channel" if per_channel else "token_head",
    )  # fmt: skip
    if skip is not None:
        more = (v.unflatten(-1, (shape[1], -1)) * skip[:, None]).flatten(-2)
        read = read + more.masked_fill((position < 0)[..., None], 0.0)
    return read.contiguous(), state


_scan = gpu_op("scan_delta", _launch, fake=_fake, reference=_reference)


def scan(
    *, v: Tensor, k: Tensor, q: Tensor, position: Tensor, key_dim: int, value_dim: int, decay: Tensor | None = None,
    dt: Tensor | None = None, beta: Tensor | None = None, erase: Tensor | None = None, write: Tensor | None = None,
    skip: Tensor | None = None, decay_per: DecayShape = "none", decay_form: DecayForm = "log", update: Update = "add",
    scale: float = 1.0, chunk_size: int = 64, state: ScanState | None = None,
) -> Tensor | tuple[Tensor, ScanState]:  # fmt: skip
    """Arguments and result are those of the reference. Gradients are not made."""
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
    initial = None if state is None else state[0]
    out, final = _scan(
        v, k, q, position, log, steps, beta, erase, write, skip, initial, key_dim, value_dim, update, per_channel, scale
    )
    if state is None:
        return out
    state[0].copy_(final)
    return out, state
