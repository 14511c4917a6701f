"""Attention in C against its reference in float64, over generated shapes: wherever keys lie, every rule."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportArgumentType=false
from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llmc.kernels.attention.reference import alibi_slopes, attend_cached
from llmc.kernels.cache.reference import cross_kv_append, kv_full_append, kv_window_append

from .native_region import Output, address, run_region

ISAS = ("native", "avx2", "portable")
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
APPEND_FIRST = "static void both(llmc_thread *t, void *a) { llmc_append(t, a); llmc_attend(t, a); }"
ATTEND_FIRST = "static void both(llmc_thread *t, void *a) { llmc_attend(t, a); llmc_append(t, a); }"
ONLY = "static void both(llmc_thread *t, void *a) { llmc_attend(t, a); }"


class Attention(ctypes.Structure):
    """`llmc_attention`."""

    _fields_ = (
        ("q", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        *(
            (name, ctypes.c_int64)
            for name in ("q_stride", "batch", "tokens", "heads", "kv_heads", "key_dim", "value_dim")
        ),
        *((name, ctypes.c_void_p) for name in ("position", "lengths", "keys", "values")),
        ("cache_type", ctypes.c_int),
        ("slots", ctypes.c_int64),
        ("is_ring", ctypes.c_int),
        ("key_position", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in ("k", "v")),
        *((name, ctypes.c_int64) for name in ("k_stride", "v_stride")),
        *((name, ctypes.c_int) for name in ("reads_new", "is_causal")),
        *((name, ctypes.c_int64) for name in ("window", "chunk")),
        *((name, ctypes.c_float) for name in ("scale", "softcap")),
        *((name, ctypes.c_void_p) for name in ("slopes", "distance_bias")),
        ("reach", ctypes.c_int64),
        ("sink", ctypes.c_void_p),
    )


@dataclass(frozen=True, kw_only=True)
class Case:
    """One shape and one rule."""

    batch: int
    tokens: int
    kv_heads: int
    group: int
    key_dim: int
    value_dim: int
    held: tuple[int, ...]
    padding: tuple[int, ...]
    place: Literal["full", "ring", "own", "kept"]
    """Where the keys lie: in a cache that the new ones join, among the call's own rows, or kept in the order in which
    they came."""
    dtype: torch.dtype
    window: int | None
    chunk: int | None
    softcap: float | None
    alibi: bool
    reach: int | None
    """Of a bias by distance."""
    sink: bool
    causal: bool
    seed: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    batch, tokens = draw(st.integers(1, 3)), draw(st.sampled_from([0, 1, 1, 2, 5, 17, 33, 70]))
    place = draw(st.sampled_from(["full", "ring", "own", "kept"]))
    window = draw(st.integers(1, 40)) if place == "ring" else draw(st.none() | st.integers(1, 40))
    return Case(
        batch=batch,
        tokens=tokens,
        kv_heads=draw(st.integers(1, 3)),
        group=draw(st.sampled_from([1, 2, 3, 8, 70])),
        key_dim=draw(st.sampled_from([1, 8, 20, 64, 80])),
        value_dim=draw(st.sampled_from([1, 8, 20, 64, 80])),
        held=tuple(0 if place == "own" else draw(st.integers(0, 90)) for _ in range(batch)),
        padding=tuple(draw(st.integers(0, tokens)) for _ in range(batch)),
        place=place,
        dtype=draw(st.sampled_from(list(TYPES))) if place != "own" else torch.float32,
        window=window,
        chunk=draw(st.none() | st.integers(1, 30)),
        softcap=draw(st.none() | st.just(3.0)),
        alibi=draw(st.booleans()),
        reach=draw(st.none() | st.sampled_from([1, 7, 300])),
        sink=draw(st.booleans()),
        causal=place == "ring" or draw(st.booleans()),
        seed=draw(st.integers(0, 2**31)),
    )


def random(case: Case, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(case.seed + sum(shape)))


def positions(case: Case) -> Tensor:
    """Padding on the left of each row, then the next positions."""
    rows = [
        [-1] * pad + list(range(held, held + case.tokens - pad))
        for held, pad in zip(case.held, case.padding, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.int64).view(case.batch, case.tokens)


def reference(
    case: Case,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: tuple[Tensor, Tensor, Tensor],
    position: Tensor,
    sink: Tensor | None,
    distance_bias: Tensor | None,
) -> Tensor:
    """What the definition gives in float64; it stores the new rows in `state`."""
    if case.tokens == 0:
        return q.new_zeros(case.batch, 0, case.kv_heads * case.group * case.value_dim, dtype=torch.float64)
    sizes = {"heads": case.kv_heads, "key_dim": case.key_dim, "value_dim": case.value_dim}
    given = {"k": k.double(), "v": v.double(), "position": position, "lengths": torch.tensor(case.held)}
    if case.place == "own":
        keys = given["k"].unflatten(-1, (case.kv_heads, -1)).transpose(1, 2)
        values, at = given["v"].unflatten(-1, (case.kv_heads, -1)).transpose(1, 2), position
    elif case.place == "kept":
        keys, values, at = state
    elif case.place == "full":
        _, keys, values, at = kv_full_append(state=state[:2], **given, **sizes)
    else:
        assert case.window is not None
        _, keys, values, at = kv_window_append(state=state[:2], **given, **sizes, window=case.window)
    return attend_cached(
        q=q.double(),
        keys=keys,
        values=values,
        key_position=at,
        position=position,
        head_dim=case.key_dim,
        v_head_dim=case.value_dim,
        mask="causal" if case.causal else "bidirectional",
        window=case.window,
        chunk=case.chunk,
        scale=case.key_dim**-0.5,
        softcap=case.softcap,
        alibi=case.alibi,
        distance_bias=None if distance_bias is None else distance_bias.double(),
        sink=None if sink is None else sink.double(),
    )


@pytest.mark.parametrize("isa", ISAS)
@given(case=cases())
def test_attention(isa: str, case: Case) -> None:
    heads = case.kv_heads * case.group
    position, lengths = positions(case), torch.tensor(case.held)
    q = random(case, case.batch, case.tokens, heads * case.key_dim)
    k = random(case, case.batch, case.tokens, case.kv_heads * case.key_dim) * 1.5
    v = random(case, case.batch, case.tokens, case.kv_heads * case.value_dim)
    k, v = (x.to(case.dtype).float() for x in (k, v))  # so that storing does not round
    capacity = 190 if case.place == "full" else (case.window or 0) + 16
    keys = random(case, case.batch, case.kv_heads, capacity, case.key_dim).to(case.dtype)
    values = random(case, case.batch, case.kv_heads, capacity, case.value_dim).to(case.dtype)
    sink = random(case, heads) if case.sink else None
    bias = None if case.reach is None else random(case, heads, 2 * case.reach + 1)
    key_position = torch.where(random(case, case.batch, capacity) < 0, -1, torch.arange(capacity))
    state = (keys.double(), values.double(), key_position)
    expected = reference(case, q, k, v, state, position, sink, bias)

    out, slopes = Output(case.batch, case.tokens, heads * case.value_dim), alibi_slopes(heads=heads)
    cached = case.place != "own"
    argument = Attention(
        q=address(q),
        out=out.address,
        q_stride=heads * case.key_dim,
        batch=case.batch,
        tokens=case.tokens,
        heads=heads,
        kv_heads=case.kv_heads,
        key_dim=case.key_dim,
        value_dim=case.value_dim,
        position=address(position),
        lengths=address(lengths),
        keys=address(keys) if cached else None,
        values=address(values) if cached else None,
        cache_type=TYPES[case.dtype],
        slots=capacity,
        is_ring=int(case.place == "ring"),
        key_position=address(key_position) if case.place == "kept" else None,
        k=address(k),
        v=address(v),
        k_stride=k.shape[-1],
        v_stride=v.shape[-1],
        reads_new=int(case.place in ("ring", "own")),
        is_causal=int(case.causal),
        window=case.window or 0,
        chunk=case.chunk or 0,
        scale=case.key_dim**-0.5,
        softcap=case.softcap or 0.0,
        slopes=address(slopes) if case.alibi else None,
        distance_bias=address(bias),
        reach=case.reach or 0,
        sink=address(sink),
    )
    order = {"full": APPEND_FIRST, "ring": ATTEND_FIRST, "own": ONLY, "kept": ONLY}[case.place]
    run_region(isa, "attention", "both", argument, before=order, scratch_bytes=1 << 20)
    got = out.check().double()
    shown = (position >= 0)[..., None].expand_as(got)
    assert torch.allclose(got[shown], expected[shown], rtol=2e-5, atol=2e-5)
    assert (got[~shown] == 0).all()
    if cached:
        assert torch.equal(keys.double(), state[0])
        assert torch.equal(values.double(), state[1])


@pytest.mark.parametrize("isa", ISAS)
@given(case=cases())
def test_keep(isa: str, case: Case) -> None:
    """What is given once lies in the order of its tokens, padding too."""
    position = positions(case)
    k, v = (random(case, case.batch, case.tokens, case.kv_heads * size) for size in (case.key_dim, case.value_dim))
    shapes = [(case.batch, case.kv_heads, case.tokens, size) for size in (case.key_dim, case.value_dim)]
    keys, values = (torch.full(shape, torch.nan, dtype=case.dtype) for shape in shapes)
    at = torch.zeros_like(position)
    argument = Attention(
        batch=case.batch,
        tokens=case.tokens,
        kv_heads=case.kv_heads,
        key_dim=case.key_dim,
        value_dim=case.value_dim,
        position=address(position),
        keys=address(keys),
        values=address(values),
        cache_type=TYPES[case.dtype],
        slots=case.tokens,
        key_position=address(at),
        k=address(k),
        v=address(v),
        k_stride=k.shape[-1],
        v_stride=v.shape[-1],
    )
    run_region(isa, "attention", "llmc_keep", argument, scratch_bytes=1 << 20)
    given = {"k": k, "v": v, "position": position, "heads": case.kv_heads}
    if case.tokens == 0:
        return
    kept = cross_kv_append(state=(keys, values, at), **given, key_dim=case.key_dim, value_dim=case.value_dim)
    assert torch.equal(keys, kept[0].to(case.dtype))
    assert torch.equal(values, kept[1].to(case.dtype))
    assert torch.equal(at, position)
