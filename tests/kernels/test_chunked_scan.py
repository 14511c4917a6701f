"""The scan in chunks against the float64 reference, over generated shapes: padding, groups, states, strong decays."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from llmc.kernels.kernel import Kernel, Request
from llmc.kernels.registry import kernels_for
from llmc.kernels.scan import reference
from llmc.kernels.tolerance import assert_close

(CHUNKED,) = (kernel for kernel in kernels_for("scan") if kernel.name == "chunked")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call of a scan: its shape, and which operands it has."""

    batch: int
    tokens: int
    groups: int
    shared: int
    key_dim: int
    value_dim: int
    chunk_size: int
    decay_per: str
    decay_form: str
    has_dt: bool
    has_skip: bool
    has_state: bool
    strength: float
    """Of the log decay: at 300 each token forgets all that was before."""
    padding: float
    is_strided: bool
    seed: int


CASES = st.builds(
    Case,
    batch=st.integers(1, 3),
    tokens=st.sampled_from([0, 1, 2, 5, 16, 17, 63, 64, 65, 130]),
    groups=st.integers(1, 3),
    shared=st.integers(1, 3),
    key_dim=st.sampled_from([1, 3, 8, 17]),
    value_dim=st.sampled_from([1, 5, 8]),
    chunk_size=st.sampled_from([1, 2, 7, 16, 64, 256]),
    decay_per=st.sampled_from(["none", "head", "token_head"]),
    decay_form=st.sampled_from(["log", "A_log"]),
    has_dt=st.booleans(),
    has_skip=st.booleans(),
    has_state=st.booleans(),
    strength=st.sampled_from([1e-3, 0.1, 2.0, 300.0]),
    padding=st.sampled_from([0.0, 0.3, 1.0]),
    is_strided=st.booleans(),
    seed=st.integers(0, 2**16),
)


def operands(case: Case) -> tuple[dict[str, object], Tensor]:
    """The keyword arguments of a scan in float32, what lies at padding being NaN, and the state `[B, H, Dk, Dv]`."""
    make = torch.Generator().manual_seed(case.seed)
    heads, shape = case.groups * case.shared, (case.batch, case.tokens)
    is_token = torch.rand(shape, generator=make) >= case.padding
    position = (is_token.cumsum(1) - 1).masked_fill(~is_token, -1)

    def stream(width: int, *, is_positive: bool = False) -> Tensor:
        x = torch.rand(*shape, width, generator=make) if is_positive else torch.randn(*shape, width, generator=make)
        x = x.masked_fill(~is_token[..., None], torch.nan)
        return x.repeat_interleave(2, dim=-1)[..., ::2] if case.is_strided else x

    given: dict[str, object] = {
        "v": stream(heads * case.value_dim), "k": stream(case.groups * case.key_dim),
        "q": stream(case.groups * case.key_dim), "position": position, "key_dim": case.key_dim,
        "value_dim": case.value_dim, "scale": 0.7, "chunk_size": case.chunk_size, "decay_per": case.decay_per,
        "decay_form": case.decay_form,
    }  # fmt: skip
    if case.decay_per != "none":
        rate = stream(heads, is_positive=True) if case.decay_per == "token_head" else torch.rand(heads, generator=make)
        given["decay"] = (rate * case.strength).log() if case.decay_form == "A_log" else -rate * case.strength
    if case.has_dt:
        given["dt"] = stream(heads, is_positive=True)
    if case.has_skip:
        given["skip"] = torch.randn(heads, generator=make)
    return given, torch.randn(case.batch, heads, case.key_dim, case.value_dim, generator=make)


def widened(given: dict[str, object]) -> dict[str, object]:
    return {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in given.items()
    }


def compare(kernel: Kernel, case: Case) -> None:
    """In float32 and in float64, with what the state holds afterwards."""
    given, state = operands(case)
    wide = widened(given)
    for arguments, dtype in ((given, torch.float32), (wide, torch.float64)):
        if not case.has_state:
            out = kernel.function()(**arguments)
            assert isinstance(out, Tensor)
            assert_close("out", out, reference.scan(**wide))
            continue
        ours, exact = (state.to(dtype, copy=True),), (state.double(),)
        out, after = kernel.function()(**arguments, state=ours)  # type: ignore[misc]
        expected, _ = reference.scan(**wide, state=exact)
        assert after is ours
        assert_close("out", out, expected)
        assert_close("state", ours[0], exact[0])


NO_TOKENS = Case(
    batch=1, tokens=0, groups=1, shared=2, key_dim=3, value_dim=1, chunk_size=1, decay_per="none", decay_form="log",
    has_dt=False, has_skip=False, has_state=True, strength=0.1, padding=0.0, is_strided=False, seed=0,
)  # fmt: skip


@example(NO_TOKENS)
@given(CASES)
def test_chunked(case: Case) -> None:
    compare(CHUNKED, case)


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
    given, state = operands(
        Case(
            batch=2, tokens=70, groups=2, shared=3, key_dim=8, value_dim=5, chunk_size=16, decay_per="head",
            decay_form="A_log", has_dt=True, has_skip=True, has_state=True, strength=0.1, padding=0.3,
            is_strided=False, seed=3,
        )
    )  # fmt: skip
    halves = {
        name: value.bfloat16() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in given.items()
    }
    ours, exact = (state.clone(),), (state.double(),)
    out, _ = CHUNKED.function()(**halves, state=ours)  # type: ignore[misc]
    expected, _ = reference.scan(**widened(halves), state=exact)
    assert out.dtype == torch.bfloat16
    assert ours[0].dtype == torch.float32
    assert_close("out", out, expected)
    assert_close("state", ours[0], exact[0])


def request(**changes: object) -> Request:
    fields = {"update": "add", "decay_per": "head", **changes}
    phase = fields.pop("phase", "prefill")
    return Request(op="scan", fields=fields, shapes={}, dtype="float32", device="cpu", phase=phase)


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
    assert CHUNKED.refusal(request(**changes)) == reason


def test_what_is_refused_is_not_computed() -> None:
    k = torch.zeros(1, 2, 3)
    with pytest.raises(ValueError, match="no chunks for update delta"):
        CHUNKED.function()(v=k, k=k, q=k, position=torch.zeros(1, 2), key_dim=3, value_dim=3, update="delta")
