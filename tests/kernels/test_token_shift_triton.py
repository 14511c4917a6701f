"""The token shift in Triton against the reference: padding anywhere, the last token kept, gradients."""

# pyright: basic
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from llmc.kernels.shift import reference
from llmc.kernels.shift.triton_token_shift import token_shift

from .gpu import DEVICE


@given(
    batch=st.integers(1, 2),
    tokens=st.sampled_from([0, 1, 2, 17]),
    features=st.sampled_from([1, 7, 300]),
    has_state=st.booleans(),
    padding=st.sampled_from([0.0, 0.3, 1.0]),
    is_strided=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_values_states_and_gradients(
    batch: int, tokens: int, features: int, has_state: bool, padding: float, is_strided: bool, seed: int
) -> None:
    make = torch.Generator().manual_seed(seed)
    is_token = torch.rand(batch, tokens, generator=make) >= padding
    position = (is_token.cumsum(1) - 1).masked_fill(~is_token, -1).to(DEVICE)
    x, grad = (torch.randn(batch, tokens, features, generator=make).to(DEVICE) for _ in range(2))
    x = x.repeat(1, 1, 2)[..., :features] if is_strided else x
    if has_state:
        last = torch.randn(batch, features, generator=make).to(DEVICE)
        ours, exact = (last.clone(),), (last.clone(),)
        out, after = token_shift(x=x, position=position, state=ours)
        expected, _ = reference.token_shift(x=x, position=position, state=exact)
        assert after is ours
        assert torch.equal(ours[0], exact[0])
        assert torch.equal(out, expected)  # type: ignore[arg-type]
        return
    leaves = [x.detach().requires_grad_() for _ in range(2)]
    out, expected = token_shift(x=leaves[0], position=position), reference.token_shift(x=leaves[1], position=position)
    assert isinstance(out, torch.Tensor)
    assert torch.equal(out, expected)
    out.backward(grad)
    expected.backward(grad)
    assert leaves[0].grad is not None
    assert torch.equal(leaves[0].grad, leaves[1].grad)  # type: ignore[arg-type]


def test_a_state_has_no_gradients() -> None:
    x, position = torch.zeros(1, 2, 3, device=DEVICE, requires_grad=True), torch.arange(2, device=DEVICE)[None]
    with pytest.raises(RuntimeError, match="no state is given"):
        token_shift(x=x, position=position, state=(torch.zeros(1, 3, device=DEVICE),))
