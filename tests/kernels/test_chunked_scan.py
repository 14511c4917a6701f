"""The scan in chunks against the float64 reference, over generated shapes: padding, groups, states, strong decays."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from llmc.kernels.registry import kernels_for
from llmc.kernels.scan import reference
from llmc.kernels.tolerance import assert_close

from .conditioned import widened
from .scan_cases import Case, cases, compare, operands, request

(CHUNKED,) = (kernel for kernel in kernels_for("scan") if kernel.name == "chunked")
CASES = cases(
    decays=["none", "head", "token_head"],
    tokens=[0, 1, 2, 5, 16, 17, 63, 64, 65, 130],
    key_dims=[1, 3, 8, 17],
    value_dims=[1, 5, 8],
    groups=3,
    shared=3,
    dtypes=(torch.float32,),
)


@example(Case(tokens=0, shared=2, value_dim=1, has_state=True), 1)
@given(CASES, st.sampled_from([1, 2, 7, 16, 64, 256]))
def test_chunked(case: Case, chunk_size: int) -> None:
    for dtype in (torch.float32, torch.float64):
        compare(partial(CHUNKED.function(), chunk_size=chunk_size), replace(case, dtype=dtype))


def test_gradients() -> None:
    x = [torch.randn(1, 7, width, dtype=torch.float64, requires_grad=True) for width in (12, 6, 6)]
    decay = (-torch.rand(1, 7, 4, dtype=torch.float64)).requires_grad_()
    dt = torch.rand(1, 7, 4, dtype=torch.float64, requires_grad=True)
    position = torch.tensor([[0, 1, -1, 2, 3, 4, 5]])
    sizes = {"position": position, "key_dim": 3, "value_dim": 3, "decay_per": "token_head", "chunk_size": 3}

    def run(v: Tensor, k: Tensor, q: Tensor, decay: Tensor, dt: Tensor) -> Tensor:
        out = CHUNKED.function()(v=v, k=k, q=q, decay=decay, dt=dt, **sizes)
        assert isinstance(out, Tensor)
        return out

    assert torch.autograd.gradcheck(run, (*x, decay, dt))


def test_halves_are_read_and_written_in_their_dtype() -> None:
    case = Case(
        batch=2, tokens=70, groups=2, shared=3, key_dim=8, value_dim=5, decay_per="head", decay_form="A_log",
        has_dt=True, has_skip=True, padding=0.3, dtype=torch.bfloat16, seed=3,
    )  # fmt: skip
    halves, state = operands(case)
    ours, exact = (state.clone(),), (state.double(),)
    out, _ = CHUNKED.function()(**halves, chunk_size=16, state=ours)  # type: ignore[misc]
    expected, _ = reference.scan(**widened(halves), state=exact)
    assert out.dtype == torch.bfloat16
    assert ours[0].dtype == torch.float32
    assert_close("out", out, expected)
    assert_close("state", ours[0], exact[0])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"phase": "train", "decay_per": "none"}, None),
        ({"phase": "decode"}, "one token at a time has no chunks"),
        ({"update": "delta"}, "a state that is also erased does not split into matrix products of this form"),
        ({"decay_per": "token_channel"}, "each element of a state has a decay of its own"),
    ],
)
def test_refusals(changes: dict[str, object], reason: str | None) -> None:
    assert CHUNKED.refusal(request(**{"decay_per": "head", **changes})) == reason


def test_what_is_refused_is_not_computed() -> None:
    k = torch.zeros(1, 2, 3)
    with pytest.raises(ValueError, match="no chunks for update delta"):
        CHUNKED.function()(v=k, k=k, q=k, position=torch.zeros(1, 2), key_dim=3, value_dim=3, update="delta")
