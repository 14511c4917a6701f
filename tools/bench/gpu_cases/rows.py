"""What works on single rows, between the matrices: norms, gates, lookups, tables, convolutions and shifts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from .beside_reference import beside_reference
from .case import Builder, Case, Sizes


def cases(sizes: Sizes) -> Iterator[Builder]:
    """All measurements of the family."""
    for op in ("layer_norm", "add_layer_norm", "group_norm", "l2_norm"):
        yield partial(_norm, sizes, op)
    for op in ("activation", "gated_activation_packed", "softcap"):
        yield partial(_pointwise, sizes, op)
    yield partial(_lookup, sizes)
    yield partial(_table, sizes)
    for tokens, is_trained in ((1, False), (8192, False), (8192, True)):
        yield partial(_conv, sizes, tokens, is_trained=is_trained)
        yield partial(_shift, sizes, tokens, is_trained=is_trained)


def _norm(sizes: Sizes, op: str) -> Case:
    """In training, where the weight has a gradient too."""
    tokens, width = sizes.pick(8192, 3), sizes.pick(4096, 48)
    operands: dict[str, object] = {"x": sizes.randn(1, tokens, width)}
    if op == "add_layer_norm":
        operands = {"delta": sizes.randn(1, tokens, width), "residual": sizes.randn(1, tokens, width)}
    if op == "l2_norm":
        operands["head_dim"] = sizes.pick(128, 16)
    else:
        operands |= {"weight": sizes.randn(width), "bias": sizes.randn(width), "eps": 1e-5}
    if op == "group_norm":
        operands["num_groups"] = sizes.pick(32, 3)
    leaves = [name for name, value in operands.items() if isinstance(value, Tensor)]
    # the one that adds gives two tensors
    leaves = [] if op == "add_layer_norm" else leaves
    return beside_reference(sizes, f"norm:{op}", "train" if leaves else "prefill", operands, leaves=leaves)


def _pointwise(sizes: Sizes, op: str) -> Case:
    x = sizes.randn(1, sizes.pick(8192, 3), sizes.pick(16384, 48))
    fields: dict[str, object] = {"cap": 30.0} if op == "softcap" else {"kind": "gelu_tanh"}
    return beside_reference(sizes, f"pointwise:{op}", "prefill", {"x": x, **fields})


def _lookup(sizes: Sizes) -> Case:
    tokens, rows, width = sizes.pick(8192, 3), sizes.pick(128256, 20), sizes.pick(4096, 48)
    ids = torch.randint(0, rows, (1, tokens), device=sizes.device)
    operands: dict[str, object] = {"ids": ids, "weight": sizes.randn(rows, width), "scale": width**0.5}
    moved = 2.0 * tokens * width * sizes.dtype.itemsize
    return beside_reference(sizes, "embedding:embedding", "prefill", operands, moved=moved)


def _table(sizes: Sizes) -> Case:
    operands: dict[str, object] = {"position": sizes.positions(1, sizes.pick(8192, 3)), "rotary_dim": 128}
    return beside_reference(sizes, "rope:rope_table", "prefill", operands)


def _conv(sizes: Sizes, tokens: int, *, is_trained: bool) -> Case:
    """Mamba-2 2.7B: 5376 channels of four taps; one token for 64 rows, which moves the tail."""
    rows = sizes.pick(64, 2) if tokens == 1 else 1
    tokens, channels = min(tokens, sizes.pick(tokens, 9)), sizes.pick(5376, 20)
    operands: dict[str, object] = {
        "x": sizes.randn(rows, tokens, channels), "position": sizes.positions(rows, tokens, 5),
        "weight": sizes.randn(channels, 1, 4), "bias": sizes.randn(channels), "activation": "silu",
    }  # fmt: skip
    if tokens == 1:
        operands["state"] = (sizes.randn(rows, channels, 3),)
    phase = "decode" if tokens == 1 else "train" if is_trained else "prefill"
    leaves = ("x", "weight", "bias") if is_trained else ()
    return beside_reference(sizes, "conv:short_conv", phase, operands, leaves=leaves, compares=tokens > 1)


def _shift(sizes: Sizes, tokens: int, *, is_trained: bool) -> Case:
    """RWKV-7 2.9B: 2560 features."""
    rows = sizes.pick(64, 2) if tokens == 1 else 1
    tokens, features = min(tokens, sizes.pick(tokens, 9)), sizes.pick(2560, 20)
    operands: dict[str, object] = {
        "x": sizes.randn(rows, tokens, features),
        "position": sizes.positions(rows, tokens, 5),
    }
    if tokens == 1:
        operands["state"] = (sizes.randn(rows, features),)
    phase = "decode" if tokens == 1 else "train" if is_trained else "prefill"
    leaves = ("x",) if is_trained else ()
    return beside_reference(sizes, "shift:token_shift", phase, operands, leaves=leaves, compares=tokens > 1)
