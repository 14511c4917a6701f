"""Latent decode attention in Triton against the float64 reference: shares, padding, few tokens, narrow ranks."""

# pyright: basic
from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from llmc.kernels.gpu.tuning import forced
from llmc.kernels.kernel import Phase, Request
from llmc.kernels.latent_attention import reference, triton_expanded
from llmc.kernels.latent_attention.triton_decode import latent_attend_cached, serves
from llmc.kernels.tolerance import TOLERANCE, assert_close

from .conditioned import widened
from .gpu import DEVICE, DTYPES

BLOCKS = {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 4, "num_stages": 2, "PROGRAMS": 1}


@given(
    lengths=st.lists(st.sampled_from([0, 1, 17, 40, 64, 70]), min_size=1, max_size=2),
    tokens=st.sampled_from([1, 1, 1, 3]),
    heads=st.sampled_from([1, 3, 16, 20]),
    sizes=st.sampled_from([(24, 8, 4, 12), (16, 16, 16, 16), (33, 20, 2, 5)]),
    scale=st.sampled_from([None, 0.3]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_values(
    lengths: list[int], tokens: int, heads: int, sizes: tuple[int, int, int, int], scale: float | None,
    dtype: torch.dtype, seed: int,
) -> None:  # fmt: skip
    """In a half precision two more roundings of the whole, of the absorbed query and of the result before `kv_up`'s
    value half, allow three times the bound."""
    make = torch.Generator().manual_seed(seed)
    (rank, nope, rope, width), batch, slots = sizes, len(lengths), 70
    length = torch.tensor(lengths)[:, None]
    order = torch.arange(slots)
    position = (length - tokens + torch.arange(tokens)).clamp(min=-1).to(DEVICE)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make).to(DEVICE, dtype)

    call: dict[str, Any] = {
        "q_nope": randn(batch, tokens, heads * nope), "q_rope": randn(batch, tokens, heads * rope),
        "latents": randn(batch, 1, slots, rank), "k_ropes": randn(batch, 1, slots, rope),
        "key_position": torch.where(order < length, order, -1).to(DEVICE), "position": position,
        "kv_up": randn(heads * (nope + width), rank) / 4, "nope_head_dim": nope, "rope_head_dim": rope,
        "v_head_dim": width, "scale": scale,
    }  # fmt: skip
    with forced("latent_shares", BLOCKS):
        out = latent_attend_cached(**call)
    bound = TOLERANCE[dtype] * (1 if dtype == torch.float32 else 3)
    assert_close("out", out, reference.latent_attend_cached(**widened(call)), tolerance=bound)
    assert out.dtype == dtype
    assert not out[position < 0].any()


@pytest.mark.parametrize("tokens", [1, 19])
def test_expanded_values_and_gradients(tokens: int) -> None:
    """A prompt that continues 21 cached latents, of which the other row has 3; and the form without a cache."""
    make = torch.Generator().manual_seed(tokens)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make).to(DEVICE).requires_grad_()

    position = (torch.tensor([[21], [3]]) + torch.arange(tokens)).to(DEVICE)
    order = torch.arange(45, device=DEVICE)
    dims = {"nope_head_dim": 8, "rope_head_dim": 4, "v_head_dim": 6}
    q = {"q_nope": randn(2, tokens, 24), "q_rope": randn(2, tokens, 12), "kv_up": randn(3 * 14, 20)}
    cached = {"latents": randn(2, 1, 45, 20), "k_ropes": randn(2, 1, 45, 4)}
    own = {"latent": randn(2, tokens, 20), "k_rope": randn(2, tokens, 4)}
    at = torch.where(order <= position[:, -1:], order, -1)

    def wide(tensors: dict[str, Tensor]) -> dict[str, Any]:
        return {name: x.detach().double().requires_grad_() for name, x in tensors.items()}

    for name, inputs, rest in (
        ("latent_attend_cached", {**q, **cached}, {"key_position": at, "position": position, **dims}),
        ("latent_attention", {**q, **own}, {"position": position - position[:, :1], **dims}),
    ):
        exact = wide(inputs)
        out = getattr(triton_expanded, name)(**inputs, **rest)
        expected = getattr(reference, name)(**exact, **rest)
        assert_close(name, out, expected)
        grad = torch.randn(out.shape, generator=make).to(DEVICE)
        ours = torch.autograd.grad(out, list(inputs.values()), grad)
        wanted = torch.autograd.grad(expected, list(exact.values()), grad.double())
        for part, actual, value in zip(inputs, ours, wanted, strict=True):
            assert_close(f"{name}: {part}.grad", actual, value, tolerance=4e-6)


def test_refusals_name_their_reason() -> None:
    def reason(rank: int = 512, rope: int = 64, dtype: str = "bfloat16", phase: Phase = "decode") -> str | None:
        shapes: dict[str, tuple[int | str, ...]] = {"latents": ("B", 1, "S", rank), "k_ropes": ("B", 1, "S", rope)}
        return serves(
            Request(op="latent_attend_cached", fields={}, shapes=shapes, dtype=dtype, device="cuda", phase=phase)
        )

    assert reason() is None
    assert "latents of 1024 are wider than 512" in str(reason(rank=1024))
    assert "k_ropes of 256 are wider than 128" in str(reason(rope=256))
    assert "float32" in str(reason(dtype="float64"))
    assert "few queries" in str(reason(phase="prefill"))
