"""Decode attention in Triton against the float64 reference: shares, masks, padding, biases, narrow caches."""

# pyright: basic
from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from llmc.kernels.attention import paged_reference, reference
from llmc.kernels.attention.triton_combine import MOST_SHARES, shares_of
from llmc.kernels.attention.triton_decode import attend_cached, attend_scaled, serves
from llmc.kernels.attention.triton_paged import attend_paged
from llmc.kernels.gpu.tuning import forced
from llmc.kernels.kernel import Phase, Request
from llmc.kernels.tolerance import assert_close

from .conditioned import widened
from .gpu import DEVICE, DTYPES, dtypes

BLOCKS = {"BLOCK_N": 16, "num_warps": 4, "num_stages": 2, "PROGRAMS": 1}
EXTRA = ("none", "none", "softcap", "alibi", "bias", "row bias", "distance", "sink")


def cached(
    make: torch.Generator, lengths: list[int], tokens: int, slots: int, *, is_shuffled: bool = False
) -> tuple[Tensor, Tensor]:
    """Positions of the slots, empty ones -1, and of the last `tokens` of each row, -1 where a row has fewer."""
    length = torch.tensor(lengths)[:, None]
    order = torch.arange(slots).expand(len(lengths), slots)
    at = torch.where(order < length, order, -1)
    if is_shuffled:
        at = at[:, torch.randperm(slots, generator=make)]
    position = length - tokens + torch.arange(tokens)
    return at.to(DEVICE), position.clamp(min=-1).to(DEVICE)


@given(
    lengths=st.lists(st.sampled_from([0, 1, 2, 17, 40, 63, 64, 70]), min_size=1, max_size=2),
    tokens=st.sampled_from([1, 1, 1, 2, 5]),
    heads=st.sampled_from([(1, 1), (2, 1), (1, 3), (2, 5)]),
    dims=st.sampled_from([(32, 32), (20, 12), (8, 40), (64, 16)]),
    mask=st.sampled_from(["causal", "causal", "bidirectional"]),
    window=st.sampled_from([None, None, 1, 9]),
    chunk=st.sampled_from([None, None, 7]),
    extra=st.sampled_from(EXTRA),
    is_shuffled=st.booleans(),
    is_strided=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_values(
    lengths: list[int], tokens: int, heads: tuple[int, int], dims: tuple[int, int], mask: str, window: int | None,
    chunk: int | None, extra: str, is_shuffled: bool, is_strided: bool, dtype: torch.dtype, seed: int,
) -> None:  # fmt: skip
    """Blocks of 16, so that 70 slots are 5 blocks and 2 shares; unseen slots hold large numbers, new memory NaN."""
    make = torch.Generator().manual_seed(seed)
    (kv_heads, group), (dim, v_dim), batch, slots = heads, dims, len(lengths), 70
    at, position = cached(make, lengths, tokens, slots, is_shuffled=is_shuffled)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make).to(DEVICE, dtype)

    keys, values = randn(batch, slots, kv_heads, dim), randn(batch, slots, kv_heads, v_dim)
    keys, values = (torch.where(at[..., None, None] < 0, 100.0, x).transpose(1, 2) for x in (keys, values))
    width = kv_heads * group * dim
    q = randn(batch, tokens, width + 16)[..., :width]
    if not is_strided:
        q, keys, values = q.contiguous(), keys.contiguous(), values.contiguous()
    call: dict[str, Any] = {
        "q": q, "keys": keys, "values": values, "key_position": at, "position": position, "head_dim": dim,
        "v_head_dim": v_dim, "mask": mask, "window": window, "chunk": chunk,
    }  # fmt: skip
    more: dict[str, dict[str, Any]] = {
        "softcap": {"softcap": 3.0, "scale": 0.7},
        "alibi": {"alibi": True},
        "bias": {"bias": randn(kv_heads * group, tokens, slots)},
        "row bias": {"bias": randn(1, tokens, slots)},
        "distance": {"distance_bias": randn(kv_heads * group, 11)},
        "sink": {"sink": randn(kv_heads * group)},
    }
    call |= more.get(extra, {})
    with forced("attend_shares", BLOCKS):
        out = attend_cached(**call)
    assert out.dtype == dtype
    assert_close("out", out, reference.attend_cached(**widened(call)))
    assert not out[position < 0].any()


@dtypes
def test_more_rows_than_a_tile(dtype: torch.dtype) -> None:
    """71 query heads on one key head, as Falcon 7B has."""
    make = torch.Generator().manual_seed(0)
    at, position = cached(make, [33], 1, 40)
    q = torch.randn(1, 1, 71 * 16, generator=make).to(DEVICE, dtype)
    keys, values = (torch.randn(1, 1, 40, 16, generator=make).to(DEVICE, dtype) for _ in range(2))
    call: dict[str, Any] = {
        "q": q,
        "keys": keys,
        "values": values,
        "key_position": at,
        "position": position,
        "head_dim": 16,
    }
    assert_close("out", attend_cached(**call), reference.attend_cached(**widened(call)))


@pytest.mark.parametrize("heads", [1, 2], ids=["one scale", "a scale a head"])
def test_a_float8_cache(heads: int) -> None:
    """Against the reference over the cache's own numbers, so that only the arithmetic is compared."""
    make = torch.Generator().manual_seed(0)
    at, position = cached(make, [30, 5], 1, 40)
    q = torch.randn(2, 1, 6 * 32, generator=make).to(DEVICE, torch.float16)
    keys, values = (torch.randn(2, 2, 40, 32, generator=make).to(DEVICE, torch.float8_e4m3fn) for _ in range(2))
    scales = [torch.rand(heads, generator=make).to(DEVICE) + 0.5 for _ in range(2)]
    call: dict[str, Any] = {"q": q, "key_position": at, "position": position, "head_dim": 32}
    out = attend_scaled(**call, keys=keys, values=values, key_scale=scales[0], value_scale=scales[1])
    exact = [x.double() * s.double().view(-1, 1, 1) for x, s in zip((keys, values), scales, strict=True)]
    assert_close("out", out, reference.attend_cached(**widened(call), keys=exact[0], values=exact[1]))
    with pytest.raises(ValueError, match="a scale each"):
        attend_scaled(**call, keys=keys, values=values, key_scale=scales[0])


@pytest.mark.parametrize("window", [None, 20])
def test_a_block_that_no_query_sees_is_not_read(window: int | None) -> None:
    """Its NaN would reach the sum: zero times NaN is NaN. Slots 80 to 99 are seen, or all up to 99."""
    make = torch.Generator().manual_seed(0)
    at, position = cached(make, [100], 1, 128)
    q = torch.randn(1, 1, 16, generator=make).to(DEVICE)
    call: dict[str, Any] = {"q": q, "key_position": at, "position": position, "head_dim": 16, "window": window}
    keys, values = (torch.randn(1, 1, 128, 16, generator=make).to(DEVICE) for _ in range(2))
    expected = reference.attend_cached(**call, keys=keys, values=values)
    for x in (keys, values):
        x[:, :, 112:] = torch.nan
        if window is not None:
            x[:, :, :80] = torch.nan
    with forced("attend_shares", BLOCKS):
        assert_close("out", attend_cached(**call, keys=keys, values=values), expected)


@pytest.mark.parametrize("programs", [1, 8, 31, 100, 200, 263, 264, 5000])
def test_shares_keep_the_multiprocessors_busy(programs: int) -> None:
    """132 of them with two programs each, over a cache of 4096 blocks."""
    shares = shares_of(4096, programs, 2, None)
    waves = programs * shares / 264
    assert 1 <= shares <= MOST_SHARES
    assert waves / -(-waves // 1) >= 5 / 6 or programs * MOST_SHARES < 264
    assert shares_of(1, programs, 2, None) == 1
    assert shares_of(9, programs, 2, None) <= 4


def test_refusals_name_their_reason() -> None:
    def reason(dtype: str = "bfloat16", dim: int = 128, phase: Phase = "decode") -> str | None:
        shapes = {"q": ("B", 1, 8 * dim), "keys": ("B", 8, "S", dim), "values": ("B", 8, "S", 64)}
        return serves(Request(op="attend_cached", fields={}, shapes=shapes, dtype=dtype, device="cuda", phase=phase))

    assert reason() is None
    assert reason(dim=256) is None
    assert "a head of 320 is wider than 256" in str(reason(dim=320))
    assert "float32" in str(reason("float64"))
    assert "few queries" in str(reason(phase="prefill"))


def test_dropout_is_refused() -> None:
    at = torch.zeros(1, 1, dtype=torch.int64, device=DEVICE)
    x = torch.zeros(1, 1, 1, 16, device=DEVICE)
    with pytest.raises(ValueError, match="dropout"):
        attend_cached(
            q=x[0], keys=x, values=x, key_position=at, position=at, head_dim=16, dropout=0.1, training=True
        )  # fmt: skip


@given(
    lengths=st.lists(st.sampled_from([0, 1, 15, 16, 17, 50, 64]), min_size=1, max_size=2),
    tokens=st.sampled_from([1, 1, 3]),
    heads=st.sampled_from([(1, 1), (2, 3)]),
    size=st.sampled_from([16, 32]),
    mask=st.sampled_from(["causal", "causal", "bidirectional"]),
    window=st.sampled_from([None, 9]),
    extra=st.sampled_from(["none", "none", "softcap", "alibi", "distance", "sink", "float8"]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_pages(
    lengths: list[int], tokens: int, heads: tuple[int, int], size: int, mask: str, window: int | None, extra: str,
    dtype: torch.dtype, seed: int,
) -> None:  # fmt: skip
    """Rows take their pages in any order; entries beyond a row's length name no page, and unused pages hold NaN."""
    make = torch.Generator().manual_seed(seed)
    (kv_heads, group), batch, most = heads, len(lengths), 96 // size
    need = [-(-length // size) for length in lengths]
    order = torch.randperm(batch * most + 1, generator=make)
    table = torch.full((batch, most), 2**30, dtype=torch.int32)
    for row, count in enumerate(need):
        table[row, :count] = order[row * most : row * most + count]
    used = table[table < 2**30].long().to(DEVICE)
    caches = []
    for _ in range(2):
        cache = torch.full((len(order), kv_heads, size, 16), torch.nan, device=DEVICE, dtype=dtype)
        cache[used] = torch.randn(len(used), kv_heads, size, 16, generator=make).to(DEVICE, dtype)
        caches.append(cache.to(torch.float8_e4m3fn) if extra == "float8" else cache)
    q = torch.randn(batch, tokens, kv_heads * group * 16, generator=make).to(DEVICE, dtype)
    held = torch.tensor(lengths, device=DEVICE)
    position = (held[:, None] - tokens + torch.arange(tokens, device=DEVICE)).clamp(min=-1)
    call: dict[str, Any] = {
        "q": q, "block_table": table.to(DEVICE), "lengths": held, "position": position, "head_dim": 16, "mask": mask,
        "window": window,
    }  # fmt: skip
    more: dict[str, dict[str, Any]] = {
        "softcap": {"softcap": 3.0},
        "alibi": {"alibi": True},
        "distance": {"distance_bias": torch.randn(kv_heads * group, 11, generator=make).to(DEVICE, dtype)},
        "sink": {"sink": torch.randn(kv_heads * group, generator=make).to(DEVICE, dtype)},
        "float8": {"key_scale": torch.full((1,), 0.5).to(DEVICE), "value_scale": torch.full((1,), 3.0).to(DEVICE)},
    }
    call |= more.get(extra, {})
    with forced("attend_shares", BLOCKS):
        out = attend_paged(**call, keys=caches[0], values=caches[1])
    exact = [cache.double() for cache in caches]
    assert_close("out", out, paged_reference.attend_paged(**widened(call), keys=exact[0], values=exact[1]))


def test_pages_of_an_odd_size_are_refused() -> None:
    cache = torch.zeros(2, 1, 24, 16, device=DEVICE)
    one = torch.zeros(1, 1, dtype=torch.int64, device=DEVICE)
    with pytest.raises(ValueError, match="power of two of at least 16 tokens, not 24"):
        attend_paged(
            q=cache[:1, 0, :1], keys=cache, values=cache, block_table=one, lengths=one[0] + 1, position=one, head_dim=16
        )
