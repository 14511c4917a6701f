"""Norms, rotation, append and attention of one token in one Triton launch, against the float64 reference."""

# pyright: basic
from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from llmc.kernels.attention import append_attend, reference, triton_append_attend
from llmc.kernels.cache import float8, triton_append
from llmc.kernels.cache import reference as cache
from llmc.kernels.gpu.arrivals import arrivals
from llmc.kernels.gpu.tuning import forced
from llmc.kernels.kernel import Phase, Request
from llmc.kernels.rope.reference import rope_apply
from llmc.kernels.states.kv_window import ROLLBACK_SLACK
from llmc.kernels.tolerance import assert_close

from .conditioned import widened
from .gpu import DEVICE, DTYPES

BLOCKS = {"BLOCK_N": 16, "num_warps": 4, "num_stages": 2, "PROGRAMS": 1}
EXTRA = ("none", "none", "softcap", "alibi", "distance", "sink")
ROPES = (None, ("half", None), ("half", 4), ("interleaved", 6))


def wide(given: dict[str, Any]) -> dict[str, Any]:
    """The same arguments in float64, the state a copy."""
    return {**widened(given), "state": tuple(x.double() for x in given["state"])}


def case(
    lengths: list[int], heads: tuple[int, int], dims: tuple[int, int], ring: int | None, chunk: int | None, extra: str,
    rope: tuple[str, int | None] | None, norm: float | None, dtype: torch.dtype, seed: int, slots: int = 72,
) -> dict[str, Any]:  # fmt: skip
    """One more token for rows that hold `lengths`, -1 a row that has ended; slots that hold no token hold 100."""
    make = torch.Generator().manual_seed(seed)
    (kv_heads, group), (dim, v_dim), batch = heads, dims, len(lengths)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make).to(DEVICE, dtype)

    slots = slots if ring is None else ring + ROLLBACK_SLACK
    state = [randn(batch, kv_heads, slots, size) for size in dims]
    for row, length in enumerate(lengths):
        for buffer in state:
            buffer[row, :, max(length, 0) :] = 100.0
    both = randn(batch, 1, kv_heads * (dim + v_dim))
    k, v = both.split([kv_heads * dim, kv_heads * v_dim], dim=-1)
    call: dict[str, Any] = {
        "state": tuple(state), "q": randn(batch, 1, kv_heads * group * dim + 8)[..., 8:], "k": k, "v": v,
        "position": torch.tensor(lengths, device=DEVICE)[:, None],
        "lengths": torch.tensor([20 if length < 0 else length for length in lengths], device=DEVICE),
        "heads": kv_heads, "key_dim": dim, "value_dim": v_dim, "ring": ring, "chunk": chunk,
        "window": ring if chunk is None else None,
    }  # fmt: skip
    if rope is not None:
        call["layout"], call["rotary_dim"] = rope
        call["table"] = randn(batch, 1, rope[1] or dim).float()
    if norm is not None:
        call |= {"q_norm_weight": randn(dim), "k_norm_weight": randn(dim), "norm_eps": 1e-5, "norm_offset": norm}
    more: dict[str, dict[str, Any]] = {
        "softcap": {"softcap": 3.0, "scale": 0.7},
        "alibi": {"alibi": True},
        "distance": {"distance_bias": randn(kv_heads * group, 11)},
        "sink": {"sink": randn(kv_heads * group)},
    }
    return call | more.get(extra, {})


@given(
    lengths=st.lists(st.sampled_from([-1, 0, 1, 15, 16, 40, 71]), min_size=1, max_size=2),
    heads=st.sampled_from([(1, 1), (2, 1), (1, 3), (2, 5)]),
    dims=st.sampled_from([(32, 32), (20, 12), (8, 40)]),
    limit=st.sampled_from([None, None, (1, None), (9, None), (9, 9)]),
    extra=st.sampled_from(EXTRA),
    rope=st.sampled_from(ROPES),
    norm=st.sampled_from([None, None, 0.0, 1.0]),
    joined=st.sampled_from([0, 1 << 17]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_values(
    lengths: list[int], heads: tuple[int, int], dims: tuple[int, int], limit: tuple[int, int | None] | None,
    extra: str, rope: tuple[str, int | None] | None, norm: float | None, joined: int, dtype: torch.dtype, seed: int,
) -> None:  # fmt: skip
    """Blocks of 16, so that 72 slots are 5 blocks and 2 shares, joined by the last program or by a second launch."""
    ring, chunk = limit or (None, None)
    call = case(lengths, heads, dims, ring, chunk, extra, rope, norm, dtype, seed)
    exact = wide(call)
    before = [x.clone() for x in call["state"]]
    with pytest.MonkeyPatch.context() as patch, forced("attend_shares", BLOCKS):
        patch.setattr(triton_append_attend, "JOINED_BYTES", joined)
        out, state = triton_append_attend.append_attend(**call)
    expected, _ = reference.append_attend(**exact, is_static=True)
    assert out.dtype == dtype
    assert_close("out", out, expected)
    for row, length in enumerate(lengths):
        slot = length if ring is None else length % before[0].shape[2]
        for name, found, wanted, old in zip(("keys", "values"), state, exact["state"], before, strict=True):
            rest = torch.arange(found.shape[2]) != (slot if length >= 0 else -1)
            assert torch.equal(found[row][:, rest], old[row][:, rest]), f"other {name}"
            if length >= 0:
                assert_close(name, found[row, :, slot], wanted[row, :, slot])
            else:
                assert not out[row].any()
    assert not arrivals(call["state"][0], 1).any(), "the counters are left as they were"


@given(
    lengths=st.lists(st.sampled_from([-1, 0, 15, 40, 71]), min_size=1, max_size=2),
    heads=st.sampled_from([(1, 1), (2, 3)]),
    dims=st.sampled_from([(32, 32), (20, 12)]),
    ring=st.sampled_from([None, 9]),
    rope=st.sampled_from([None, ("half", None)]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_a_float8_cache(
    lengths: list[int], heads: tuple[int, int], dims: tuple[int, int], ring: int | None,
    rope: tuple[str, int | None] | None, dtype: torch.dtype, seed: int,
) -> None:  # fmt: skip
    """Numbers and scales as the reference stores them, attention over them; each head has a size of its own."""
    call = case(lengths, heads, dims, ring, None, "none", rope, None, dtype, seed)
    call["v"] = call["v"] * torch.tensor([0.01, 50.0]).to(call["v"]).repeat_interleave(dims[1])[: heads[0] * dims[1]]
    (keys, key_scale), (values, value_scale) = (float8.quantise(x) for x in call["state"])
    call["state"] = (keys, values, key_scale, value_scale)
    ours = {**call, "state": tuple(x.clone() for x in call["state"])}
    with forced("attend_shares", BLOCKS):
        out, state = triton_append_attend.append_attend(**ours)
    _, expected = reference.append_attend(**call, is_static=True)
    if rope is None:
        for found, wanted in zip(state, expected, strict=True):
            assert torch.equal(found.float(), wanted.float())
    # a last bit of a turned key may be a step of float8, so what is attended to is what was stored
    stored = [x.double() * scale.double()[..., None] for x, scale in zip(state[:2], state[2:], strict=True)]
    position = call["position"]
    for found, wanted, scale in zip(stored, expected[:2], expected[2:], strict=True):
        assert_close("stored", found, wanted.double() * scale.double()[..., None], tolerance=0.03)
    at = torch.arange(stored[0].shape[2], device=DEVICE).expand(len(lengths), -1)
    at = cache._ring_positions(position[:, 0] + 1, stored[0].shape[2]) if ring else at.where(at <= position, -1)
    exact = wide(call)
    if rope is not None:
        turned = rope_apply(x=exact["q"], table=exact["table"], head_dim=dims[0], layout="half")
        exact["q"] = turned.to(dtype).double()  # as the kernel holds it: an own score of 10 moves by 0.005 in float16
    attended = reference.attend_cached(
        q=exact["q"], keys=stored[0], values=stored[1], key_position=at, position=position, head_dim=dims[0],
        v_head_dim=dims[1], window=ring,
    )  # fmt: skip
    assert_close("out", out, attended)


@given(size=st.sampled_from([1e-30, 1e-3, 1.0, 300.0]), seed=st.integers(0, 2**16))
def test_the_error_of_float8(size: float, seed: int) -> None:
    """Of each element half a step of its mantissa, or of the smallest numbers; of a head of zeros nothing."""
    x = torch.randn(3, 4, 20, generator=torch.Generator().manual_seed(seed)) * size
    x[0, 0] = 0.0
    small, scale = float8.quantise(x)
    error = (small.double() * scale.double()[..., None] - x.double()).abs()
    bound = torch.maximum(x.double().abs() / 16, x.double().abs().amax(-1, keepdim=True) / 448 / 1024) * (1 + 1e-6)
    assert (error <= bound).all()
    assert float(error.max() / x.abs().max()) > 0.01
    assert not small[0, 0].float().any()


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("window", [None, 6])
def test_several_tokens_of_a_float8_cache(tokens: int, window: int | None) -> None:
    """The appends of prompts, in Triton and by reference: buffers bit by bit, and what is read of them."""
    call = case([3, 7], (2, 1), (16, 12), window, None, "none", None, None, torch.float32, 3)
    state = [float8.quantise(x) for x in call["state"]]
    state = (state[0][0], state[1][0], state[0][1], state[1][1])
    make = torch.Generator().manual_seed(4)
    given: dict[str, Any] = {
        "k": torch.randn(2, tokens, 32, generator=make).to(DEVICE), "heads": 2, "key_dim": 16, "value_dim": 12,
        "v": torch.randn(2, tokens, 24, generator=make).to(DEVICE), "lengths": call["lengths"],
        "position": call["lengths"][:, None] + torch.arange(tokens, device=DEVICE),
    }  # fmt: skip
    given["position"][0, 1:] = -1
    given |= {} if window is None else {"window": window}
    name = "kv_full_append" if window is None else "kv_window_append"
    copy = tuple(x.clone() for x in state)
    _, *found, at = getattr(triton_append, name)(state=state, **given)
    _, *expected, wanted_at = getattr(cache, name)(state=copy, **given, is_static=True)
    for ours, wanted in zip(state, copy, strict=True):
        assert torch.equal(ours.float(), wanted.float())
    assert torch.equal(at, wanted_at)
    held = (at >= 0)[:, None, :, None]
    for ours, wanted in zip(found, expected, strict=True):
        assert_close("read", ours, wanted.masked_fill(~held, 0.0), tolerance=1e-6)


def test_more_heads_than_a_tile_store_once_and_join_alike() -> None:
    """71 query heads on one key head, joined by one program or by a second launch."""
    call = case([70], (1, 71), (16, 16), None, None, "sink", ("half", None), None, torch.float32, 0)
    exact, found = wide(call), []
    for joined in (0, 1 << 17):
        given = {**call, "state": tuple(x.clone() for x in call["state"])}
        with pytest.MonkeyPatch.context() as patch, forced("attend_shares", BLOCKS):
            patch.setattr(triton_append_attend, "JOINED_BYTES", joined)
            found.append(triton_append_attend.append_attend(**given)[0])
    assert_close("out", found[0], reference.append_attend(**exact, is_static=True)[0])
    assert_close("joined", found[1], found[0], tolerance=1e-6)


def test_a_launch_into_another_cache_disturbs_none_that_runs() -> None:
    """Its counters are the cache's own: those of one whose programs have not all arrived stay as they are."""
    running, other = (
        case([70], (2, 1), (16, 16), None, None, "none", None, None, torch.float32, seed) for seed in (0, 1)
    )
    exact = wide(other)
    half_way = arrivals(running["state"][0], 2)
    half_way.fill_(1)
    with forced("attend_shares", BLOCKS):
        out, state = triton_append_attend.append_attend(**other)
    assert_close("out", out, reference.append_attend(**exact, is_static=True)[0])
    assert half_way.tolist() == [1, 1]
    assert arrivals(state[0], 2) is arrivals(other["state"][0], 2) is not half_way
    assert arrivals(running["state"][0], 1) is half_way
    gone = weakref.ref(half_way)
    del running, half_way
    assert gone() is None


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("ring", [None, 9])
@pytest.mark.parametrize("form", ["append_attend", "append_attend_sdpa"])
def test_apart(tokens: int, ring: int | None, form: str) -> None:
    """The same by launches of their own, for any count of tokens."""
    call = case([15], (2, 2), (16, 16), ring, None, "none", ("half", None), 0.0, torch.float32, 1)
    for name in ("q", "k", "v", "table"):
        call[name] = torch.randn(1, tokens, call[name].shape[-1], generator=torch.Generator().manual_seed(2)).to(DEVICE)
    call["position"] = 15 + torch.arange(tokens, device=DEVICE)[None]
    expected, exact = reference.append_attend(**wide(call))
    out, state = getattr(append_attend, form)(**call)
    assert_close("out", out, expected)
    for found, wanted in zip(state, exact, strict=True):
        assert_close("state", found, wanted)


def test_several_tokens_are_refused() -> None:
    call = case([3], (1, 1), (16, 16), None, None, "none", None, None, torch.float32, 0)
    call["position"] = torch.tensor([[3, 4]])
    with pytest.raises(ValueError, match="one token a row is added, not 2"):
        triton_append_attend.append_attend(**call)


def test_refusals_name_their_reason() -> None:
    def request(dtype: str = "bfloat16", dim: int = 128, phase: Phase = "decode", **fields: object) -> Request:
        fields = {"heads": 8, "key_dim": dim, "value_dim": dim, **fields}
        return Request(op="append_attend", fields=fields, shapes={}, dtype=dtype, device="cuda", phase=phase)

    assert triton_append_attend.serves(request()) is None
    assert "one token" in str(triton_append_attend.serves(request(phase="prefill")))
    assert "a head of 320 is wider than 256" in str(triton_append_attend.serves(request(dim=320)))
    assert "float32" in str(triton_append_attend.serves(request("float64")))
    assert append_attend.serves(request(phase="prefill")) is None
    assert "float32" in str(append_attend.serves(request("float64")))
    assert "softcap" in str(append_attend.serves_sdpa(request(softcap=30.0)))
