"""Generated cases of the kernels in C that mix tokens or keep a state: attention, caches, recurrences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from hypothesis import strategies as st
from torch import Tensor

from .emitted_case import Case, Found, Given, Operands, Parameter, State, Value, reference_of
from .emitted_draws import KINDS, Builder, any_of, dtype_of, gap, positive, scaled, small, width

SLOTS = 32
"""Tokens that a cache holds, more than any case's calls bring."""


# --- attention --------------------------------------------------------------------------------------------------------


def _rule(draw: st.DrawFn, heads: int, key_dim: int, value_dim: int) -> dict[str, object]:
    """Queries, and what they see."""
    made: dict[str, object] = {
        "q": Value(shape=(heads * key_dim,), gap=gap(draw)),
        "head_dim": key_dim,
        "v_head_dim": value_dim,
        "mask": "causal",
        "chunk": any_of(draw, None, 4),
        "scale": any_of(draw, None, 0.3),
        "softcap": any_of(draw, None, 3.0),
        "alibi": draw(st.booleans()),
    }
    if draw(st.booleans()):
        made["sink"] = Parameter(shape=(heads,))
    if draw(st.booleans()):
        made["distance_bias"] = Value(shape=(heads, 2 * draw(st.integers(1, 9)) + 1), rows="one")
    return made


def _sizes(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Query heads, key heads, and the sizes of a key and a value."""
    kv_heads = draw(st.integers(1, 3))
    return kv_heads * draw(st.integers(1, 4)), kv_heads, small(draw), small(draw)


def attention(draw: st.DrawFn) -> Case:
    heads, kv_heads, key_dim, value_dim = _sizes(draw)
    operands = _rule(draw, heads, key_dim, value_dim)
    operands |= {"mask": any_of(draw, "causal", "bidirectional"), "window": any_of(draw, None, 1, 3)}
    operands |= {
        name: Value(shape=(kv_heads * size,), gap=gap(draw)) for name, size in (("k", key_dim), ("v", value_dim))
    }
    return Case(op="attention", operands=operands, tolerance=1e-5)


def _unless_empty(given: Given, call: Callable[[], Tensor]) -> tuple[Tensor]:
    """What the reference gives, which wants a token at least."""
    q, position = (cast("Tensor", given[name]) for name in ("q", "position"))
    if position.shape[1]:
        return (call(),)
    heads = q.shape[-1] // cast("int", given["head_dim"])
    return (q.new_zeros(position.shape[0], 0, heads * cast("int", given["v_head_dim"])),)


def _cached(append: str) -> Callable[[Given, Given], Found]:
    def reference(before: Given, given: Given) -> Found:
        state = cast("tuple[Tensor, ...]", before["state"])
        return _unless_empty(given, lambda: _attend(append, before, given)), state

    return reference


def _attend(append: str, before: Given, given: Given) -> Tensor:
    _, keys, values, at = cast("tuple[object, ...]", reference_of(append)(**before))
    found = reference_of("attend_cached")(**given, keys=keys, values=values, key_position=at)
    return cast("Tensor", found)


def cached(append: str) -> Builder:
    """Attention over a cache that the call's own keys join: all of them, or the last ones in a ring."""

    def build(draw: st.DrawFn) -> Case:
        heads, kv_heads, key_dim, value_dim = _sizes(draw)
        operands, dtype = _rule(draw, heads, key_dim, value_dim), dtype_of(draw)
        sizes = {"heads": kv_heads, "key_dim": key_dim, "value_dim": value_dim}
        slots = SLOTS
        if append == "kv_window_append":
            sizes["window"] = draw(st.integers(1, 12))
            slots = sizes["window"] + draw(st.sampled_from([0, 3]))
            operands["window"] = sizes["window"]
        elif draw(st.booleans()):
            operands["window"] = 3
        state = State(
            kind=append.removesuffix("_append"),
            shapes=((kv_heads, slots, key_dim), (kv_heads, slots, value_dim)),
            sizes=sizes,
            dtypes=(dtype,),
            slots=slots,
        )
        new = {
            name: Value(shape=(kv_heads * size,), gap=gap(draw)) for name, size in (("k", key_dim), ("v", value_dim))
        }
        return Case(
            op="attend_cached",
            operands=operands,
            before=(append, {"state": state, **new, **sizes}),
            reference=_cached(append),
            dtype=dtype,
            tolerance=1e-5,
            state_tolerance=0.0,
            rounds_values=True,
        )

    return build


def cross_kv_append(draw: st.DrawFn) -> Case:
    _, kv_heads, key_dim, value_dim = _sizes(draw)
    dtype, sizes = dtype_of(draw), {"heads": kv_heads, "key_dim": key_dim, "value_dim": value_dim}
    shapes = ((kv_heads, -1, key_dim), (kv_heads, -1, value_dim), (-1,))
    state = State(kind="cross_kv", shapes=shapes, sizes=sizes, dtypes=(dtype, dtype, torch.int64), slots=-1)
    new = {name: Value(shape=(kv_heads * size,), gap=gap(draw)) for name, size in (("k", key_dim), ("v", value_dim))}
    return Case(
        op="cross_kv_append",
        operands={"state": state, **new, **sizes},
        ports=(),
        reference=lambda _before, given: ((), cast("tuple[Tensor, ...]", reference_of("cross_kv_append")(**given))),
        dtype=dtype,
        state_tolerance=0.0,
        rounds_values=True,
    )


def cross_kv_read(draw: st.DrawFn) -> Case:
    heads, kv_heads, key_dim, value_dim = _sizes(draw)
    dtype, kept = dtype_of(draw), draw(st.sampled_from([1, 5, 17, 40]))
    sizes = {"heads": kv_heads, "key_dim": key_dim, "value_dim": value_dim}
    shapes = ((kv_heads, kept, key_dim), (kv_heads, kept, value_dim), (kept,))
    state = State(kind="cross_kv", shapes=shapes, sizes=sizes, dtypes=(dtype, dtype, torch.int64), slots=kept)
    operands = {**_rule(draw, heads, key_dim, value_dim), "mask": "bidirectional", "chunk": None}
    return Case(
        op="attend_cached",
        operands=operands,
        before=("cross_kv_read", {"state": state}),
        reference=_cached("cross_kv_read"),
        dtype=dtype,
        tolerance=1e-5,
        state_tolerance=0.0,
        rounds_values=True,
    )


def attend_cached(draw: st.DrawFn) -> Case:
    builders = [cached("kv_full_append"), cached("kv_window_append"), cross_kv_read]
    return draw(st.sampled_from(builders))(draw)


def _latent(before: Given, given: Given) -> Found:
    state = cast("tuple[Tensor, ...]", before["state"])
    q, position = (cast("Tensor", given[name]) for name in ("q_nope", "position"))
    if not position.shape[1]:
        heads = q.shape[-1] // cast("int", given["nope_head_dim"])
        return (q.new_zeros(position.shape[0], 0, heads * cast("int", given["v_head_dim"])),), state
    _, latents, ropes, at = cast("tuple[object, ...]", reference_of("kv_latent_append")(**before))
    out = reference_of("latent_attend_cached")(**given, latents=latents, k_ropes=ropes, key_position=at)
    return (cast("Tensor", out),), state


def latent_attend_cached(draw: st.DrawFn) -> Case:
    heads, rank, dtype = draw(st.integers(1, 5)), width(draw), dtype_of(draw)
    nope, rope, value = draw(st.sampled_from([1, 5, 16])), draw(st.sampled_from([2, 6, 16])), small(draw)
    shapes = ((1, SLOTS, rank), (1, SLOTS, rope))
    state = State(kind="kv_latent", shapes=shapes, dtypes=(dtype,), slots=SLOTS)
    new = {"latent": Value(shape=(rank,), gap=gap(draw)), "k_rope": Value(shape=(rope,), gap=gap(draw))}
    operands: Operands = {
        "q_nope": Value(shape=(heads * nope,), gap=gap(draw)),
        "q_rope": Value(shape=(heads * rope,), gap=gap(draw)),
        "kv_up": Parameter(shape=(heads * (nope + value), rank), draw=scaled),
        "nope_head_dim": nope,
        "rope_head_dim": rope,
        "v_head_dim": value,
        "scale": any_of(draw, None, 0.4),
    }
    return Case(
        op="latent_attend_cached",
        operands=operands,
        before=("kv_latent_append", {"state": state, **new, "rank": rank, "rope_dim": rope}),
        reference=_latent,
        dtype=dtype,
        tolerance=1e-5,
        state_tolerance=0.0,
        rounds_values=True,
    )


# --- recurrences ------------------------------------------------------------------------------------------------------


def _unit(size: int) -> Callable[[tuple[int, ...], torch.Generator], Tensor]:
    """Keys of length one, for which the delta rules are stable."""

    def draw(axes: tuple[int, ...], generator: torch.Generator) -> Tensor:
        x = torch.randn((*axes[:-1], axes[-1] // size, size), generator=generator)
        return (x / x.square().sum(-1, keepdim=True).sqrt()).view(axes)

    return draw


def _forgets(axes: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return -torch.rand(axes, generator=generator) - 0.05


def scan(draw: st.DrawFn) -> Case:
    groups, key_dim, value_dim = draw(st.integers(1, 2)), small(draw), draw(st.sampled_from([1, 2, 3, 16, 17, 40, 64]))
    heads = groups * draw(st.integers(1, 3))
    update, per = (
        draw(st.sampled_from(["add", "delta", "erase_write"])),
        draw(st.sampled_from(["none", "head", "state", "token_head", "token_channel"])),
    )
    fields = {"key_dim": key_dim, "value_dim": value_dim, "decay_per": per, "update": update, "scale": 0.7}
    operands: dict[str, object] = {
        "v": Value(shape=(heads * value_dim,), gap=gap(draw)),
        "k": Value(shape=(groups * key_dim,), gap=gap(draw), draw=_unit(key_dim)),
        "q": Value(shape=(groups * key_dim,), gap=gap(draw)),
        "decay_form": any_of(draw, "log", "A_log"),
        **fields,
    }
    learned = {"head": (heads,), "state": (heads, key_dim)}
    if per in learned:
        operands["decay"] = Parameter(shape=learned[per], draw=_forgets)
    elif per != "none":
        size = heads if per == "token_head" else heads * key_dim
        operands["decay"] = Value(shape=(size,), gap=gap(draw), draw=_forgets)
    if update == "delta":
        operands["beta"] = Value(shape=(heads,), gap=gap(draw), draw=positive)
    if update == "erase_write":
        part = _unit(key_dim)
        operands |= {name: Value(shape=(heads * key_dim,), gap=gap(draw), draw=part) for name in ("erase", "write")}
    if draw(st.booleans()):
        operands["dt"] = Value(shape=(heads,), gap=gap(draw), draw=positive)
    if draw(st.booleans()):
        operands["skip"] = Parameter(shape=(heads,))
    if draw(st.booleans()):
        operands["state"] = State(kind="matrix", shapes=((heads, key_dim, value_dim),))
    return Case(op="scan", operands=operands, tolerance=3e-5, state_tolerance=3e-5)


def short_conv(draw: st.DrawFn) -> Case:
    channels, taps, dtype = width(draw), draw(st.integers(1, 5)), dtype_of(draw)
    operands: dict[str, object] = {
        "x": Value(shape=(channels,), gap=gap(draw)),
        "weight": Parameter(shape=(channels, 1, taps)),
        "activation": any_of(draw, *KINDS),
    }
    if draw(st.booleans()):
        operands["bias"] = Parameter(shape=(channels,))
    if draw(st.booleans()):
        operands["state"] = State(kind="conv", shapes=((channels, taps - 1),), dtypes=(dtype,))
    return Case(op="short_conv", operands=operands, dtype=dtype, state_tolerance=0.0, rounds_values=True)


def token_shift(draw: st.DrawFn) -> Case:
    features, dtype = width(draw), dtype_of(draw)
    operands: dict[str, object] = {"x": Value(shape=(features,), gap=gap(draw))}
    if draw(st.booleans()):
        operands["state"] = State(kind="token_shift", shapes=((features,),), dtypes=(dtype,))
    return Case(
        op="token_shift", operands=operands, dtype=dtype, tolerance=0.0, state_tolerance=0.0, rounds_values=True
    )


MIXERS: Mapping[str, Builder] = {
    "kv_latent_append": latent_attend_cached,
    "latent_attend_cached": latent_attend_cached,
    "attention": attention,
    "kv_full_append": cached("kv_full_append"),
    "kv_window_append": cached("kv_window_append"),
    "cross_kv_append": cross_kv_append,
    "cross_kv_read": cross_kv_read,
    "attend_cached": attend_cached,
    "scan": scan,
    "short_conv": short_conv,
    "token_shift": token_shift,
}
