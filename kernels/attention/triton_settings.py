"""What every launch of the attention kernels is told: the node's fields, block sizes, and the rules they follow."""

# pyright: basic
from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ..gpu.sizes import power_of_2
from ..gpu.target import launch_target
from ..gpu.tuning import Config, Key, Tunable
from .fields import MaskKind, Scores

WIDEST = 256
"""The largest head that one block holds."""


class Operands(NamedTuple):
    """The tensors of attention over many queries, as operators of torch take them."""

    q: Tensor
    k: Tensor
    """`[B, Hkv, S, D]`."""
    v: Tensor
    position: Tensor
    key_position: Tensor
    bias: Tensor | None
    distance_bias: Tensor | None
    sink: Tensor | None
    seed: Tensor | None = None
    """Of the mask by which weights are dropped, `[1]` int64; absent: none are."""
    plan: Tensor | None = None
    key_plan: Tensor | None = None

    def dense(self) -> Operands:
        """The same, last elements side by side, as they nearly always are."""
        q, k, v, position, key_position = (
            x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous() for x in self[:5]
        )
        distance_bias = None if self.distance_bias is None else self.distance_bias.contiguous()
        return Operands(q, k, v, position, key_position, self.bias, distance_bias, *self[7:])


class Settings(NamedTuple):
    """The fields of a node with their defaults filled in, as operators of torch take them; 0 stands for no window,
    chunk or softcap."""

    head_dim: int
    v_head_dim: int
    causal: bool
    window: int
    chunk: int
    scale: float
    softcap: float
    alibi: bool
    dropout: float = 0.0
    """The part of the weights that is left out."""

    @staticmethod
    def of(given: Scores, head_dim: int, v_head_dim: int | None, mask: MaskKind = "causal") -> Settings:
        """What a record of attention says."""
        scale = head_dim**-0.5 if given.scale is None else given.scale
        return Settings(
            head_dim, v_head_dim or head_dim, mask == "causal", given.window or 0, given.chunk or 0, scale,
            given.softcap or 0.0, given.alibi,
        )  # fmt: skip

    def fields(self) -> dict[str, Any]:
        """The same as the reference takes them."""
        return {
            "head_dim": self.head_dim, "v_head_dim": self.v_head_dim, "scale": self.scale, "alibi": self.alibi,
            "mask": "causal" if self.causal else "bidirectional", "window": self.window or None,
            "chunk": self.chunk or None, "softcap": self.softcap or None,
        }  # fmt: skip

    def limits(self) -> dict[str, Any]:
        """What `plan_blocks` asks for, of positions that are given."""
        return {"causal": self.causal, "window": self.window, "chunk": self.chunk}

    def flags(self, bias: Tensor | None, distance_bias: Tensor | None) -> dict[str, int | bool]:
        """The constants by which a kernel is compiled, except for block sizes over tokens."""
        has_more = bool(self.softcap) or self.alibi or bias is not None or distance_bias is not None
        block, v_block = max(16, power_of_2(self.head_dim)), max(16, power_of_2(self.v_head_dim))
        return {
            "CAUSAL": self.causal, "HAS_WINDOW": self.window > 0, "HAS_CHUNK": self.chunk > 0,
            "IS_PLAIN": not has_more and self.scale > 0.0, "HAS_SOFTCAP": self.softcap != 0.0,
            "HAS_ALIBI": self.alibi, "HAS_BIAS": bias is not None, "HAS_DISTANCE": distance_bias is not None,
            "BLOCK_D": block, "BLOCK_DV": v_block, "EVEN_D": block == self.head_dim,
            "EVEN_DV": v_block == self.v_head_dim,
        }  # fmt: skip

    def key(self, q: Tensor, keys: int, *, is_plain: bool) -> Key:
        """What the best blocks depend on."""
        return {
            "plain": int(is_plain),
            "dtype": str(q.dtype).removeprefix("torch."),
            "head_dim": max(16, power_of_2(self.head_dim)),
            "v_head_dim": max(16, power_of_2(self.v_head_dim)),
            "queries": next((size for size in (16, 64, 512) if q.shape[1] <= size), 4096),
            "keys": next((size for size in (64, 1024) if keys <= size), 8192),
        }

    def at_once(self, k: Tensor, heads: int) -> int:
        """How many query heads' keys and values fit most of the chip's cache, which programs at once should share."""
        head = k.shape[2] * (self.head_dim + self.v_head_dim) * k.element_size()
        return max(1, launch_target().cache * 2 // 3 // head) * (heads // k.shape[1])


def bias_strides(bias: Tensor | None) -> tuple[int, int, int]:
    """Of `[1 or H, T, S]`, over heads, queries and keys."""
    if bias is None:
        return 0, 0, 0
    return 0 if bias.shape[0] == 1 else bias.stride(0), bias.stride(1), bias.stride(2)


def reach_of(distance_bias: Tensor | None) -> int:
    """The distance beyond which a bias stays as it is."""
    return 0 if distance_bias is None else distance_bias.shape[1] // 2


def power_below(heads: int) -> int:
    """The power of two at or below a count of heads, by which ALiBi's slopes go."""
    return 2 ** math.floor(math.log2(heads))


def can_describe(x: Tensor) -> bool:
    """Rows of `[B, H, S, D]` may be loaded by the tensor memory accelerator: all begin at multiples of 16 bytes."""
    steps = (*x.stride()[:3], x.storage_offset())
    return all(step * x.element_size() % 16 == 0 for step in steps) and x.stride(2) > 0


def provide_scratch() -> None:
    """Tensor descriptors made by a kernel lie in memory that the launch provides."""
    triton.set_allocator(_scratch)  # pyright: ignore[reportArgumentType]


def _scratch(size: int, alignment: int, stream: int | None) -> Tensor:
    del alignment, stream
    return torch.empty(size, dtype=torch.int8, device="cuda")


def forward_bytes(key: Key, config: Config) -> int:
    """Bytes of shared memory that the forward kernel takes: queries once, keys and values for each stage."""
    size = 4 if key["dtype"] == "float32" else 2
    head, v_head = int(key["head_dim"]), int(key["v_head_dim"])
    return size * (config["BLOCK_M"] * head + config["num_stages"] * config["BLOCK_N"] * (head + v_head))


def _forward_rule(key: Key) -> Config:
    """128 queries by two warpgroups, as many keys as registers and two stages allow; few queries where there are few.

    Each thread holds its part of the output and of two tiles of scores, so wide heads and scores that are more than a
    product take fewer keys at once.
    """
    head = max(int(key["head_dim"]), int(key["v_head_dim"]))
    if key["dtype"] == "float32":
        m, n, warps = (32, 32, 8) if head <= 64 else (32, 16, 8) if head <= 128 else (16, 16, 4)
        sizes = {"BLOCK_M": min(int(key["queries"]), m), "BLOCK_N": n}
        return {**sizes, "DESCRIBED": 0, "num_warps": warps, "num_stages": 2 if head <= 128 else 1}
    is_light = bool(key["plain"]) or head <= 64
    rows = min(int(key["queries"]), 128 if is_light else 64)
    few = {"DESCRIBED": 0, "num_warps": 8 if rows == 128 or not is_light else 4}
    widths = (128, 64, 32) if head <= 64 and key["plain"] else (64, 32) if head <= 128 and key["plain"] else (32,)
    tried = (
        {**few, "BLOCK_M": m, "BLOCK_N": width, "num_stages": stages}
        for m in (rows, min(rows, 64))
        for width in widths
        for stages in (3, 2)
    )
    fitting = (config for config in tried if forward_bytes(key, config) <= launch_target().shared_memory)
    return next(fitting, {"BLOCK_M": 16, "BLOCK_N": 32, "DESCRIBED": 0, "num_warps": 4, "num_stages": 1})


def _forward_space(key: Key) -> tuple[Config, ...]:
    every = (
        {"BLOCK_M": m, "BLOCK_N": n, "DESCRIBED": described, "num_warps": warps, "num_stages": stages}
        for m in (16, 32, 64, 128)
        for n in (32, 64, 128)
        for described in (0, 1)
        for warps in (4, 8)
        for stages in (1, 2, 3, 4)
    )
    least = 16 if key["dtype"] == "float32" else min(int(key["queries"]), 64)
    kept = (config for config in every if least <= config["BLOCK_M"] <= int(key["queries"]))
    return tuple(config for config in kept if forward_bytes(key, config) <= launch_target().shared_memory)


def backward_bytes(key: Key, config: Config, *, kept: str, passed: str) -> int:
    """Bytes of shared memory of a backward kernel: two tiles that stay, two that pass in stages, two of slopes."""
    size = 4 if key["dtype"] == "float32" else 2
    both = int(key["head_dim"]) + int(key["v_head_dim"])
    tiles = config[kept] * both + config["num_stages"] * config[passed] * both
    return size * (tiles + 2 * config["BLOCK_M"] * config["BLOCK_N"])


def _backward_rule(key: Key, *, kept: str, passed: str) -> Config:
    """Wide tiles stay, narrower ones pass: each thread holds its part of two sums and of two tiles of scores."""
    head = max(int(key["head_dim"]), int(key["v_head_dim"]))
    if key["dtype"] == "float32":
        return {kept: 32 if head <= 64 else 16, passed: 16, "num_warps": 8 if head <= 64 else 4, "num_stages": 1}
    is_wide = head > 128 or (head > 64 and not key["plain"])
    has_two_sums = kept == "BLOCK_N"
    passes = max(16, 64 >> (is_wide + (head > 128 and not key["plain"]) + has_two_sums))
    tried = (
        {kept: stays, passed: passes, "num_warps": 8, "num_stages": stages}
        for stays in ((64,) if is_wide else (128, 64))
        for stages in (2, 1)
    )
    fitting = (c for c in tried if backward_bytes(key, c, kept=kept, passed=passed) <= launch_target().shared_memory)
    return next(fitting, {kept: 32, passed: 16, "num_warps": 4, "num_stages": 1})


def _backward_space(key: Key, *, kept: str, passed: str) -> tuple[Config, ...]:
    every = (
        {kept: stays, passed: passes, "num_warps": warps, "num_stages": stages}
        for stays in (16, 32, 64, 128)
        for passes in (16, 32, 64, 128)
        for warps in (4, 8)
        for stages in (1, 2, 3)
    )
    least = 16 if key["dtype"] == "float32" else 64
    fitting = (c for c in every if backward_bytes(key, c, kept=kept, passed=passed) <= launch_target().shared_memory)
    return tuple(config for config in fitting if config[kept] >= least)


def _backward(name: str, kept: str, passed: str) -> Tunable:
    return Tunable(
        name=name,
        rule=lambda key: _backward_rule(key, kept=kept, passed=passed),
        space=lambda key: _backward_space(key, kept=kept, passed=passed),
    )


FORWARD = Tunable(name="attention_forward", rule=_forward_rule, space=_forward_space)
BACKWARD_QUERIES = _backward("attention_backward_queries", "BLOCK_M", "BLOCK_N")
BACKWARD_KEYS = _backward("attention_backward_keys", "BLOCK_N", "BLOCK_M")
