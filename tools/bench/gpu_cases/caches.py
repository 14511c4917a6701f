"""Caches: a token's append and attention in one launch (G3), and what a prompt appends, of each kind of state."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from ....kernels.cache import float8
from .beside_reference import beside_reference
from .case import Builder, Case, Sizes

WINDOW, SLACK = 4096, 16


def cases(sizes: Sizes) -> Iterator[Builder]:
    """All measurements of the family."""
    for filled, is_short in ((8192, False), (131072, False), (131072, True)):
        yield partial(_token, sizes, filled, is_short=is_short)
    yield partial(_token, sizes, WINDOW - 1, is_ring=True)
    yield partial(_prompt, sizes, "rope_kv_full_append")
    yield partial(_prompt, sizes, "rope_kv_window_append")
    yield partial(_prompt, sizes, "kv_full_append")
    yield partial(_prompt, sizes, "kv_window_append")
    yield partial(_prompt, sizes, "kv_full_append", is_short=True)
    yield partial(_latent, sizes)


def _heads(sizes: Sizes) -> tuple[int, int, int]:
    """Of queries, of keys, and how wide."""
    return sizes.pick(32, 2), sizes.pick(8, 1), sizes.pick(128, 32)


def _state(sizes: Sizes, slots: int, *, is_short: bool) -> tuple[Tensor, ...]:
    """Keys and values, in float8 with their scales or in the benchmark's dtype."""
    _, shared, width = _heads(sizes)
    state = tuple(sizes.randn(1, shared, slots, width) for _ in range(2))
    if not is_short:
        return state
    (keys, key_scale), (values, value_scale) = (float8.quantise(x) for x in state)
    return keys, values, key_scale, value_scale


def _token(sizes: Sizes, filled: int, *, is_short: bool = False, is_ring: bool = False) -> Case:
    """Rotation, append and attention of one token; what is moved are the keys and values that it sees."""
    filled, heads, shared, width = sizes.pick(filled, 20), *_heads(sizes)
    window = sizes.pick(WINDOW, 21) if is_ring else None
    state = _state(sizes, filled + 1 + SLACK if window is None else window + SLACK, is_short=is_short)
    operands: dict[str, object] = {
        "state": state, "q": sizes.randn(1, 1, heads * width), "k": sizes.randn(1, 1, shared * width),
        "v": sizes.randn(1, 1, shared * width), "position": sizes.positions(1, 1, filled),
        "lengths": torch.full((1,), filled, device=sizes.device), "is_static": True,
        "table": torch.randn(1, 1, width, device=sizes.device), "heads": shared, "key_dim": width, "value_dim": width,
        **({} if window is None else {"ring": window, "window": window}),
    }  # fmt: skip
    kind = " in float8" * is_short + f" in a ring of {window}" * is_ring
    return beside_reference(
        sizes, "attention:append_attend", "decode", operands, note=f"{kind}, {filled} tokens",
        moved=float(sum(x.nbytes // x.shape[2] for x in state) * filled), target="G3", goal=">= 90 %",
        compares=not is_short,
    )  # fmt: skip


def _prompt(sizes: Sizes, op: str, *, is_short: bool = False) -> Case:
    """What an append of many tokens reads and writes; their queries are turned with the keys."""
    tokens, heads, shared, width = sizes.pick(8192, 9), *_heads(sizes)
    window = sizes.pick(WINDOW, 8) if "window" in op else None
    operands: dict[str, object] = {
        "state": _state(sizes, tokens if window is None else window + SLACK, is_short=is_short),
        "k": sizes.randn(1, tokens, shared * width), "v": sizes.randn(1, tokens, shared * width),
        "position": sizes.positions(1, tokens), "lengths": torch.zeros(1, dtype=torch.int64, device=sizes.device),
        "is_static": True, "heads": shared, "key_dim": width, "value_dim": width,
        **({} if window is None else {"window": window}),
    }  # fmt: skip
    if op.startswith("rope"):
        operands |= {
            "q": sizes.randn(1, tokens, heads * width),
            "table": torch.randn(1, tokens, width, device=sizes.device),
        }
    return beside_reference(sizes, f"cache:{op}", "prefill", operands, note=" to float8" * is_short, compares=False)


def _latent(sizes: Sizes) -> Case:
    """A token's latent and rotated part: what is cached is seen as it lies, so that next to nothing is moved."""
    slots, rank, rope = sizes.pick(8192, 24), sizes.pick(512, 32), 64
    operands: dict[str, object] = {
        "state": (sizes.randn(1, 1, slots, rank), sizes.randn(1, 1, slots, rope)),
        "latent": sizes.randn(1, 1, rank), "k_rope": sizes.randn(1, 1, rope), "rank": rank, "rope_dim": rope,
        "position": sizes.positions(1, 1, slots - 1), "is_static": True,
        "lengths": torch.full((1,), slots - 1, device=sizes.device),
    }  # fmt: skip
    return beside_reference(
        sizes, "latent_attention:kv_latent_append", "decode", operands, compares=False,
        moved=4.0 * (rank + rope) * sizes.dtype.itemsize,
    )  # fmt: skip
