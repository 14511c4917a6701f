"""Calls of attention for tests of its Triton kernels: odd sizes, every mask, padding, strides and operands."""

# pyright: basic
from __future__ import annotations

from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st
from torch import Tensor

from .gpu import DEVICE, DTYPES


@dataclass
class Call:
    """The arguments of `attend_cached`: tensors by name, and fields."""

    tensors: dict[str, Tensor]
    fields: dict[str, object] = field(default_factory=dict)

    def wide(self) -> Call:
        """The same in float64."""
        tensors = {name: x.double() if x.is_floating_point() else x for name, x in self.tensors.items()}
        return Call(tensors, self.fields)

    def run(self, function: object) -> Tensor:
        """The result of a function with the arguments of the reference."""
        return function(**self.tensors, **self.fields)  # type: ignore[operator]


def _positions(kind: str, batch: int, tokens: int, keys: int) -> tuple[Tensor, Tensor]:
    """Of queries, the last of the keys where there are more, and of keys."""
    key = torch.arange(keys).expand(batch, keys).clone()
    query = torch.arange(max(0, keys - tokens), max(0, keys - tokens) + tokens).expand(batch, tokens).clone()
    if kind == "left":
        key[0], query[0] = key[0] - 3, query[0] - 3
    elif kind == "right":
        key[0, -3:], query[0, -3:] = -1, -1
    elif kind == "ring":
        key = key.roll(5, 1)
    elif kind == "blind":
        key[0], query[-1, ::2] = -1, -1
    elif kind == "shifted":
        key, query = key + 1000, query + 1000
    return query.clamp(min=-1), key.clamp(min=-1)


@st.composite
def calls(draw: st.DrawFn, *, has_biases: bool = True) -> Call:
    """One call; without biases, what training serves."""
    make = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    dtype = draw(st.sampled_from(DTYPES))
    batch, kv_heads, group = draw(st.sampled_from([(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 2, 2), (1, 1, 3)]))
    heads = kv_heads * group
    tokens = draw(st.sampled_from([1, 7, 33]))
    keys = draw(st.sampled_from([tokens, 50]))
    head_dim, v_head_dim = draw(st.sampled_from([(16, 16), (20, 12), (12, 40), (32, 32), (24, 24)]))
    query, key = _positions(
        draw(st.sampled_from(["whole", "left", "right", "ring", "blind", "shifted"])), batch, tokens, keys
    )

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make).to(DEVICE, dtype)

    q = random(batch, tokens, heads * head_dim)
    k, v = random(batch, keys, kv_heads, head_dim), random(batch, keys, kv_heads, v_head_dim)
    if draw(st.booleans()):
        q = random(batch, tokens, heads * head_dim + 8)[..., 8:]
        k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v))
    call = Call({
        "q": q, "keys": k.transpose(1, 2), "values": v.transpose(1, 2), "position": query.to(DEVICE),
        "key_position": key.to(DEVICE),
    })  # fmt: skip
    call.fields = {
        "head_dim": head_dim, "v_head_dim": v_head_dim, "mask": draw(st.sampled_from(["causal", "bidirectional"])),
        "window": draw(st.sampled_from([None, None, 1, 9])), "chunk": draw(st.sampled_from([None, None, 1, 16])),
        "scale": draw(st.sampled_from([None, 0.3, -0.3])), "softcap": draw(st.sampled_from([None, None, 2.0])),
        "alibi": draw(st.sampled_from([False, False, True])),
    }  # fmt: skip
    if draw(st.booleans()):
        call.tensors["sink"] = random(heads)
    if has_biases and draw(st.booleans()):
        call.tensors["bias"] = random(draw(st.sampled_from([1, heads])), tokens, keys)
    if has_biases and draw(st.booleans()):
        call.tensors["distance_bias"] = random(heads, 2 * 7 + 1)
    return call
