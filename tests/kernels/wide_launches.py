"""Sizes that models have and the benchmark leaves out, those that take the most shared memory among them."""

# pyright: basic
from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from llmc.tools.bench.gpu_cases.beside_reference import beside_reference
from llmc.tools.bench.gpu_cases.case import Case, Sizes

FORMATS = ("", "int8", "int4", "int4_128", "ternary")


def more(sizes: Sizes) -> Iterator[Callable[[], Case]]:
    """All of them, as a family of the benchmark."""
    for key, value, fields in (
        (256, 256, {"softcap": 50.0, "window": 4096}), (96, 96, {}), (80, 80, {"alibi": True}), (192, 128, {}),
        (256, 256, {}), (64, 64, {"sink": sizes.randn(8), "window": 128}),
    ):  # fmt: skip
        yield partial(_attention, sizes, 4096, key, value, **fields)
        yield partial(_attention, sizes, 40, key, value, **fields)
    for group, width in ((4, 256), (8, 64), (64, 128), (1, 96), (16, 256)):
        yield partial(_token, sizes, group, width)
        yield partial(_token, sizes, group, width, softcap=50.0, window=1024, ring=1024)
    for format in FORMATS:
        for count, tokens in ((1, 1), (4, 1), (16, 1), (64, 1), *(((1, 32), (1, 4096)) if format else ())):
            yield partial(_matrix, sizes, count, tokens, format, "linear")
            yield partial(_matrix, sizes, count, tokens, format, "gated_linear")
    for tokens in (16, 64, 128, 4096):
        yield partial(_experts, sizes, tokens)
    for tokens, heads in ((1, 16), (1, 128), (4096, 16)):
        yield partial(_latent, sizes, tokens, heads)
    head: dict[str, Any] = {"decay": sizes.randn(1, 4096, 4), "decay_per": "token_head"}
    for width in (64, 128):
        yield partial(_scan, sizes, width, **head)
        yield partial(_scan, sizes, width, **head, update="delta", beta=sizes.randn(1, 4096, 4))
        yield partial(_scan, sizes, width, decay=sizes.randn(1, 4096, 4 * width), decay_per="token_channel")


def _attention(sizes: Sizes, tokens: int, key: int, value: int, **fields: object) -> Case:
    operands = {
        "q": sizes.randn(1, tokens, 8 * key), "k": sizes.randn(1, tokens, 2 * key), "head_dim": key,
        "v": sizes.randn(1, tokens, 2 * value), "position": sizes.positions(1, tokens), "v_head_dim": value, **fields,
    }  # fmt: skip
    return beside_reference(sizes, "attention:attention", "train", operands, leaves=("q", "k", "v"))


def _token(sizes: Sizes, group: int, width: int, **fields: object) -> Case:
    operands = {
        "state": (sizes.randn(2, 2, 4096, width), sizes.randn(2, 2, 4096, width)), "heads": 2, "key_dim": width,
        "q": sizes.randn(2, 1, 2 * group * width), "k": sizes.randn(2, 1, 2 * width), "value_dim": width,
        "v": sizes.randn(2, 1, 2 * width), "position": sizes.positions(2, 1, 4000), "is_static": True,
        "lengths": torch.zeros(2, dtype=torch.int64), **fields,
    }  # fmt: skip
    return beside_reference(sizes, "attention:append_attend", "decode", operands)


def _matrix(sizes: Sizes, rows: int, tokens: int, format: str, op: str) -> Case:
    size_out = 6144 if op == "linear" else 12288
    operands: dict[str, object] = {"x": sizes.randn(rows, tokens, 4096), "weight": sizes.randn(size_out, 4096)}
    operands |= {} if op == "linear" else {"kind": "silu"}
    phase = "decode" if tokens == 1 else "prefill"
    return beside_reference(sizes, f"linear:{op}", phase, operands, format=format)


def _experts(sizes: Sizes, tokens: int) -> Case:
    operands = {
        "x": sizes.randn(1, tokens, 4096), "weights": torch.randn(1, tokens, 2), "packing": "halves",
        "experts": torch.zeros(1, tokens, 2, dtype=torch.int64), "gate_up_proj": sizes.randn(8, 28672, 4096),
        "down_proj": sizes.randn(8, 4096, 14336),
    }  # fmt: skip
    leaves = ("x", "gate_up_proj", "down_proj")
    return beside_reference(sizes, "moe:experts", "train", operands, leaves=leaves, others={"num_experts": 8})


def _latent(sizes: Sizes, tokens: int, heads: int) -> Case:
    operands = {
        "q_nope": sizes.randn(2, tokens, heads * 128), "q_rope": sizes.randn(2, tokens, heads * 64),
        "latents": sizes.randn(2, 1, 4096, 512), "k_ropes": sizes.randn(2, 1, 4096, 64),
        "kv_up": sizes.randn(heads * 256, 512), "key_position": sizes.positions(2, 4096), "rope_head_dim": 64,
        "position": sizes.positions(2, tokens), "nope_head_dim": 128, "v_head_dim": 128,
    }  # fmt: skip
    phase = "decode" if tokens == 1 else "prefill"
    return beside_reference(sizes, "latent_attention:latent_attend_cached", phase, operands)


def _scan(sizes: Sizes, width: int, **fields: object) -> Case:
    operands = {
        "v": sizes.randn(1, 4096, 4 * width), "k": sizes.randn(1, 4096, 4 * width), "key_dim": width,
        "q": sizes.randn(1, 4096, 4 * width), "position": sizes.positions(1, 4096), "value_dim": width, **fields,
    }  # fmt: skip
    return beside_reference(sizes, "scan:scan", "train", operands, leaves=("v", "k", "q"))
