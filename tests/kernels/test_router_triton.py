"""Routers in Triton against the float64 reference: scores, groups, corrections, ties, ways to logits, gradients."""

# pyright: basic
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from llmc.kernels.gpu.tuning import forced
from llmc.kernels.moe import reference, triton_router, triton_router_backward
from llmc.kernels.moe.triton_router import router
from llmc.kernels.tolerance import TOLERANCE, assert_close

from .gpu import DEVICE, DTYPES

CONFIG = {"BLOCK_M": 32, "BLOCK_N": 16, "BLOCK_K": 16, "num_warps": 4, "num_stages": 2}


@given(
    tokens=st.sampled_from([0, 1, 17]),
    width=st.sampled_from([3, 20]),
    groups=st.sampled_from([(6, 1, None), (12, 4, 2), (9, 3, 3), (12, 3, 1)]),
    top_k=st.integers(1, 4),
    score=st.sampled_from(["softmax", "sigmoid", "sqrtsoftplus"]),
    is_chosen=st.booleans(),
    has_bias=st.booleans(),
    has_correction=st.booleans(),
    normalise=st.booleans(),
    group_score=st.sampled_from(["max", "top2_sum"]),
    at_once=st.booleans(),
    losses=st.sampled_from(["weights", "logits", "both"]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_equals_the_reference(
    tokens: int, width: int, groups: tuple[int, int, int | None], top_k: int, score: str, is_chosen: bool,
    has_bias: bool, has_correction: bool, normalise: bool, group_score: str, at_once: bool, losses: str,
    dtype: torch.dtype, seed: int,
) -> None:  # fmt: skip
    make = torch.Generator().manual_seed(seed)
    count, num_groups, top_groups = groups

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=make).to(DEVICE, dtype)

    x, weight = random(1, tokens, width).requires_grad_(), random(count, width).requires_grad_()
    bias, correction = random(count).requires_grad_() if has_bias else None, random(count) if has_correction else None
    options = {
        "top_k": top_k, "score": score, "score_over": "chosen" if is_chosen else "all", "normalise": normalise,
        "scale": 1.5, "num_groups": num_groups, "top_groups": top_groups, "group_score": group_score,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, forced("router_logits", CONFIG), forced("router_backward", CONFIG):
        patch.setattr(triton_router, "AT_ONCE", 1 << 17 if at_once else 0)
        patch.setattr(triton_router, "PICKERS", 4)
        patch.setattr(triton_router_backward, "PARTED", 8)
        found = router(x=x, weight=weight, bias=bias, correction=correction, **options)  # type: ignore[arg-type]
        leaves = [one for one in (x, weight, bias) if one is not None]
        # of weights, of logits as a loss of balance gives them, or of both
        wanted = [i for i in (0, 2) if losses in ("both", "weights" if i == 0 else "logits")]
        grads = [torch.randn(found[i].shape, generator=make).to(DEVICE) for i in wanted]
        of_leaves = torch.autograd.grad([found[i] for i in wanted], leaves, grads)
    wide = [None if one is None else one.detach().double().requires_grad_() for one in (x, weight, bias)]
    exact = reference.router(
        x=wide[0], weight=wide[1], bias=wide[2],  # pyright: ignore[reportArgumentType]
        correction=None if correction is None else correction.double(), **options,  # type: ignore[arg-type]
    )  # fmt: skip
    assert torch.equal(found[1], exact[1])
    assert_close("weights", found[0], exact[0], tolerance=1e-5)
    assert_close("logits", found[2], exact[2])
    of_wide = torch.autograd.grad(
        [exact[i] for i in wanted], [one for one in wide if one is not None], [one.double() for one in grads]
    )
    for name, one, other in zip(("of x", "of weight", "of bias"), of_leaves, of_wide, strict=False):
        # the weight of a single pick, normalised, is constant: what float64 leaves of its gradient is rounding
        exactly = torch.where(other.abs() < 1e-14, 0.0, other)
        assert_close(name, one, exactly, tolerance=max(1e-5, TOLERANCE[one.dtype]))


@pytest.mark.parametrize("tokens", [1, 19])
@pytest.mark.parametrize("groups", [(1, None), (4, 2)])
def test_of_equals_the_lowest_number(
    tokens: int, groups: tuple[int, int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of the weight repeat, so that experts and groups tie."""
    monkeypatch.setattr(triton_router, "PICKERS", 4)
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=DEVICE).repeat(6, 1)
    x = torch.tensor([[[1.0, 0.5], [-1.0, -1.0], [0.0, 0.0]]], device=DEVICE).repeat(1, tokens, 1)[:, :tokens]
    options = {"top_k": 5, "num_groups": groups[0], "top_groups": groups[1], "group_score": "top2_sum"}
    found = router(x=x, weight=weight, **options)[1]  # type: ignore[arg-type]
    assert torch.equal(found, reference.router(x=x, weight=weight, **options)[1])  # type: ignore[arg-type]


def test_no_number_picks_nothing_that_is_not_there() -> None:
    x = torch.full((1, 1, 4), torch.nan, device=DEVICE)
    picks = router(x=x, weight=torch.ones(6, 4, device=DEVICE), top_k=2)[1]
    assert ((picks >= 0) & (picks < 6)).all()
