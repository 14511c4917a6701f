"""The short convolution in Triton against the float64 reference: padding anywhere, tails, one token, gradients."""

# pyright: basic
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from llmc.kernels.conv import reference
from llmc.kernels.conv.triton_short_conv import serves, short_conv
from llmc.kernels.kernel import Request
from llmc.kernels.tolerance import assert_close

from .gpu import DEVICE, DTYPES


@given(
    batch=st.integers(1, 2),
    tokens=st.sampled_from([1, 2, 5, 33]),
    channels=st.sampled_from([1, 7, 130]),
    taps=st.integers(1, 4),
    activation=st.sampled_from(["identity", "silu"]),
    has_bias=st.booleans(),
    has_state=st.booleans(),
    padding=st.sampled_from([0.0, 0.3, 1.0]),
    is_strided=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_values_tails_and_gradients(
    batch: int, tokens: int, channels: int, taps: int, activation: str, has_bias: bool, has_state: bool,
    padding: float, is_strided: bool, dtype: torch.dtype, seed: int,
) -> None:  # fmt: skip
    make = torch.Generator().manual_seed(seed)
    is_token = torch.rand(batch, tokens, generator=make) >= padding
    position = (is_token.cumsum(1) - 1).masked_fill(~is_token, -1).to(DEVICE)
    x = torch.randn(batch, tokens, channels, generator=make).to(DEVICE, dtype)
    x = x.repeat(1, 1, 2)[..., :channels] if is_strided else x
    weight = torch.randn(channels, 1, taps, generator=make).to(DEVICE, dtype)
    bias = torch.randn(channels, generator=make).to(DEVICE, dtype) if has_bias else None
    fields = {"position": position, "activation": activation}
    if has_state:
        x = x.masked_fill(position[..., None] < 0, torch.nan)
        tail = torch.randn(batch, channels, taps - 1, generator=make).to(DEVICE, dtype)
        ours, exact = (tail.clone(),), (tail.double(),)
        out, after = short_conv(x=x, weight=weight, bias=bias, state=ours, **fields)  # type: ignore[misc]
        wide = None if bias is None else bias.double()
        expected, _ = reference.short_conv(x=x.double(), weight=weight.double(), bias=wide, state=exact, **fields)  # type: ignore[misc]
        assert after is ours
        assert_close("out", out, expected)
        assert torch.equal(ours[0].double(), exact[0])
        return
    grad = torch.randn(batch, tokens, channels, generator=make).to(DEVICE, dtype)
    inputs = {"x": x, "weight": weight} | ({} if bias is None else {"bias": bias})
    results = []
    for function, width in ((short_conv, dtype), (reference.short_conv, torch.float64)):
        leaves = {name: value.detach().to(width).requires_grad_() for name, value in inputs.items()}
        out = function(**leaves, **fields)  # type: ignore[operator]
        assert isinstance(out, torch.Tensor)
        results.append((out.detach(), *torch.autograd.grad(out, list(leaves.values()), grad.to(width))))
    for name, actual, expected in zip(("out", *(f"{name}.grad" for name in inputs)), *results, strict=True):
        assert_close(name, actual, expected)


def test_a_tail_has_no_gradients() -> None:
    x, weight = torch.zeros(1, 2, 3, device=DEVICE), torch.zeros(3, 1, 2, device=DEVICE, requires_grad=True)
    tail, position = torch.zeros(1, 3, 1, device=DEVICE), torch.arange(2, device=DEVICE)[None]
    with pytest.raises(RuntimeError, match="no state is given"):
        short_conv(x=x, position=position, weight=weight, state=(tail,))


@pytest.mark.parametrize(
    ("dtype", "taps", "reason"),
    [("bfloat16", 4, None), ("float64", 4, "sums are float32"), ("float32", 9, "9 taps are more than 8")],
)
def test_refusals(dtype: str, taps: int, reason: str | None) -> None:
    shapes = {"weight": (8, 1, taps)}
    request = Request(op="short_conv", fields={}, shapes=shapes, dtype=dtype, device="cuda", phase="train")
    assert serves(request) == reason
