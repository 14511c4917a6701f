"""Cache appends in Triton against the reference's static form: buffers, what is read, positions; ragged rows, rings."""

# pyright: basic
from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from llmc.kernels.cache import reference, triton_append
from llmc.kernels.kernel import Request
from llmc.kernels.latent_attention import reference as latent
from llmc.kernels.tolerance import assert_close

from .gpu import DEVICE, DTYPES


def ragged(lengths: list[int], counts: list[int], *, on_left: bool) -> Tensor:
    """The positions of each row's next `counts` tokens, padded with -1."""
    tokens = max(counts)
    position = torch.full((len(counts), tokens), -1)
    for row, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        at = tokens - count if on_left else 0
        position[row, at : at + count] = torch.arange(length, length + count)
    return position.to(DEVICE)


@given(
    counts=st.one_of(st.just([1]), st.just([1, 1]), st.lists(st.sampled_from([0, 1, 3, 9]), min_size=2, max_size=2)),
    lengths=st.tuples(*(st.sampled_from([0, 1, 4, 11, 20]),) * 2),
    window=st.sampled_from([None, None, 1, 6]),
    heads=st.sampled_from([1, 3]),
    dims=st.sampled_from([(8, 8), (20, 12)]),
    rope=st.sampled_from([None, ("half", None), ("half", 4), ("interleaved", 6)]),
    on_left=st.booleans(),
    has_q=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_an_append_is_the_references(
    counts: list[int], lengths: tuple[int, int], window: int | None, heads: int, dims: tuple[int, int],
    rope: tuple[str, int | None] | None, on_left: bool, has_q: bool, dtype: torch.dtype,
    seed: int,
) -> None:  # fmt: skip
    """k and v are parts of one wider tensor, as a fused projection gives them."""
    make = torch.Generator().manual_seed(seed)
    counts = counts if any(counts) else [1] * len(counts)
    position = ragged(list(lengths[: len(counts)]), counts, on_left=on_left)
    (batch, tokens), (dim, v_dim), slots = position.shape, dims, 40 if window is None else window + 2

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make).to(DEVICE, dtype)

    both = randn(batch, tokens, heads * (dim + v_dim))
    k, v = both.split([heads * dim, heads * v_dim], dim=-1)
    state = randn(batch, heads, slots, dim), randn(batch, heads, slots, v_dim)
    call: dict[str, Any] = {
        "position": position, "lengths": torch.tensor(lengths[:batch], device=DEVICE), "heads": heads, "key_dim": dim,
        "value_dim": v_dim,
    }  # fmt: skip
    name = "kv_full_append" if window is None else "kv_window_append"
    call |= {} if window is None else {"window": window}
    table = None
    if rope is not None:
        name, call["layout"], call["rotary_dim"] = f"rope_{name}", *rope
        table = randn(batch, tokens, call["rotary_dim"] or dim)
    exact = [x.double() for x in state]
    given = {} if table is None else {"table": table.float()}
    wide = {} if table is None else {"table": table.double()}
    if table is not None and has_q:
        given["q"] = randn(batch, tokens, 2 * heads * dim + 8)[..., : 2 * heads * dim]
        wide["q"] = given["q"].double()
    expected = getattr(reference, name)(
        state=(exact[0], exact[1]), k=k.double(), v=v.double(), **call, **wide, is_static=True
    )
    returned, keys, values, at, *turned = getattr(triton_append, name)(state=state, k=k, v=v, **call, **given)
    if "q" in given:
        assert_close("q", turned[0], expected[4])
    assert returned is state
    assert torch.equal(at, expected[3])
    assert (keys.data_ptr() == state[0].data_ptr()) == (window is None or tokens == 1)
    for part, actual, wanted in (
        ("keys", state[0], exact[0]), ("values", state[1], exact[1]), ("read keys", keys, expected[1]),
        ("read values", values, expected[2]),
    ):  # fmt: skip
        if rope is None or "values" in part:
            assert torch.equal(actual.double(), wanted), part
        else:
            assert_close(part, actual, wanted)


def test_latents_are_appended() -> None:
    state = torch.zeros(2, 1, 9, 20, device=DEVICE), torch.zeros(2, 1, 9, 4, device=DEVICE)
    kept = state[0].clone(), state[1].clone()
    call: dict[str, Any] = {
        "latent": torch.randn(2, 3, 20).to(DEVICE), "k_rope": torch.randn(2, 3, 4).to(DEVICE),
        "rank": 20, "rope_dim": 4,
        "position": ragged([2, 5], [3, 1], on_left=False), "lengths": torch.tensor([2, 5], device=DEVICE),
    }  # fmt: skip
    _, latents, ropes, at = triton_append.kv_latent_append(state=state, **call)
    expected = latent.kv_latent_append(state=kept, **call, is_static=True)
    for actual, wanted in zip((latents, ropes, at), expected[1:], strict=True):
        assert torch.equal(actual, wanted)
    assert at.tolist()[1] == [0, 1, 2, 3, 4, 5, -1, -1, -1]


def test_a_token_beyond_the_capacity_is_not_stored() -> None:
    """Nothing may be read to say so; but the memory behind the buffer is another's."""
    memory = torch.zeros(3, 1, 4, 8, device=DEVICE)
    k = torch.ones(1, 2, 8, device=DEVICE)
    triton_append.kv_full_append(
        state=(memory[:1], memory[1:2]), k=k, v=k, position=torch.tensor([[3, 4]], device=DEVICE),
        lengths=torch.tensor([3], device=DEVICE), heads=1, key_dim=8, value_dim=8,
    )  # fmt: skip
    assert memory.sum((1, 3)).tolist() == [[0, 0, 0, 8], [0, 0, 0, 8], [0, 0, 0, 0]]


def test_refusals_name_their_reason() -> None:
    def request(dtype: str, **sizes: int) -> Request:
        return Request(op="kv_full_append", fields=sizes, shapes={}, dtype=dtype, device="cuda", phase="decode")

    assert triton_append.serves(request("float64", key_dim=128, value_dim=128)) is None
    assert "a head of 2048 is wider" in str(triton_append.serves(request("float32", rank=2048, rope_dim=64)))
    assert triton_append.serves_latent(request("float32", rank=512, rope_dim=64)) is None
    assert "float32" in str(triton_append.serves_rope(request("float64", key_dim=128, value_dim=128)))
