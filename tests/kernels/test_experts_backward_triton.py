"""Gradients of experts in Triton against those of the float64 reference, for all that is trained of them."""

# pyright: basic
from __future__ import annotations

import contextlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from llmc.kernels.gpu.tuning import forced
from llmc.kernels.kernel import Request
from llmc.kernels.moe import reference, triton_experts_grouped
from llmc.kernels.moe.triton_experts import experts
from llmc.kernels.moe.triton_router import router
from llmc.kernels.registry import kernels_for
from llmc.kernels.tolerance import TOLERANCE, assert_close

from .conditioned import assert_conditioned
from .experts_cases import cases, typed
from .gpu import DEVICE, DTYPES

TILE = {"BLOCK_N": 64, "BLOCK_K": 64, "num_warps": 4, "num_stages": 2}
SMALL = {
    "experts_grouped_first": TILE,
    "experts_grouped_second": TILE,
    "experts_backward_inner": TILE,
    "experts_backward_input": TILE,
    "experts_backward_sums": {"BLOCK_R": 64, "BLOCK_C": 64, "BLOCK_S": 16, "num_warps": 4, "num_stages": 2},
}


def gradients(run: object, given: dict[str, object], grad: Tensor) -> dict[str, Tensor]:
    """The output, and the gradient of every tensor that has one."""
    leaves = {
        name: value.clone().requires_grad_()
        for name, value in given.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    with torch.enable_grad():
        out = run(**{**given, **leaves})  # type: ignore[operator]
    if not out.numel() and not out.requires_grad:  # without a token the reference calls nothing
        return {"out": out, **{name: torch.zeros_like(leaf) for name, leaf in leaves.items()}}
    found = torch.autograd.grad(out, list(leaves.values()), grad.to(out.dtype))
    return {"out": out.detach(), **dict(zip(leaves, found, strict=True))}


@contextlib.contextmanager
def small_tiles(is_small: bool):
    """One tile across, or several with what is done in their quarters; programs take several of them."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(triton_experts_grouped, "MULTIPROCESSORS", 1)
        for name, config in SMALL.items():
            smaller = {key: 32 for key in ("BLOCK_N", "BLOCK_C") if is_small and key in config}
            quarters = {"IN_QUARTERS": int(is_small)} if name == "experts_backward_inner" else {}
            stack.enter_context(forced(name, {**config, **smaller, **quarters}))
        yield


@given(case=cases((0, 1, 9)), dtype=st.sampled_from(DTYPES), is_small=st.booleans())
def test_equal_the_references(case: dict[str, object], dtype: torch.dtype, is_small: bool) -> None:
    """The expert that nobody picked gets zeros, and others may have one token."""
    ours = typed(case, dtype)
    grad = torch.randn(ours["x"].shape, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)  # type: ignore[union-attr]
    with small_tiles(is_small):
        found = gradients(experts, ours, grad)
    assert_conditioned(
        found, lambda wide: gradients(reference.experts, wide, grad), ours, dtype=dtype, tolerance=2 * TOLERANCE[dtype]
    )


@pytest.mark.parametrize("op", ["experts", "router"])
def test_training_is_served(op: str) -> None:
    fields = {"num_experts": 128}
    asked = Request(op=op, fields=fields, shapes={}, dtype="bfloat16", device="cuda:sm_90", phase="train")
    assert [kernel.refusal(asked) for kernel in kernels_for(op) if kernel.is_triton and not kernel.format] == [None]


def test_frozen_experts_pass_gradients_on() -> None:
    """As adapters elsewhere need them: no gradient of a matrix is made."""
    make = torch.Generator().manual_seed(0)
    x, up, down = (torch.randn(*shape, generator=make).to(DEVICE) for shape in ((1, 2, 8), (3, 4, 8), (3, 8, 4)))
    picked = torch.tensor([[[0, 2], [2, 1]]], device=DEVICE)
    shares = torch.rand(1, 2, 2, generator=make).to(DEVICE)
    leaf = x.clone().requires_grad_()
    with small_tiles(False):
        out = experts(x=leaf, weights=shares, experts=picked, up_proj=up, down_proj=down)
        (found,) = torch.autograd.grad(out.sum(), leaf)
    wide = x.double().requires_grad_()
    exact = reference.experts(
        x=wide, weights=shares.double(), experts=picked, up_proj=up.double(), down_proj=down.double()
    )
    assert_close("of x", found, torch.autograd.grad(exact.sum(), wide)[0], tolerance=1e-5)


def test_gradients_pass_a_mixture_with_a_shared_expert() -> None:
    """Router, experts and a part that every token takes: one x, whose gradients are added."""
    make = torch.Generator().manual_seed(0)
    shapes = {"x": (1, 6, 16), "router": (4, 16), "up": (4, 8, 16), "down": (4, 16, 8), "shared": (16, 16)}
    plain = {name: torch.randn(*shape, generator=make, dtype=torch.float64) for name, shape in shapes.items()}

    def loss(modules: tuple[object, object], given: dict[str, Tensor]) -> Tensor:
        route, mix = modules
        x = given["x"]
        weights, picked, logits = route(x=x, weight=given["router"], top_k=2, score="sigmoid", normalise=True)  # type: ignore[operator]
        mixed = mix(x=x, weights=weights, experts=picked, up_proj=given["up"], down_proj=given["down"])  # type: ignore[operator]
        return (mixed + x @ given["shared"]).square().mean() + 0.1 * logits.logsumexp(-1).square().mean()

    found: list[tuple[Tensor, ...]] = []
    for modules, dtype in (((router, experts), torch.float32), ((reference.router, reference.experts), torch.float64)):
        leaves = {name: one.to(DEVICE, dtype).requires_grad_() for name, one in plain.items()}
        with small_tiles(False):
            found.append(torch.autograd.grad(loss(modules, leaves), list(leaves.values())))
    for name, ours, exact in zip(plain, *found, strict=True):
        assert_close(name, ours, exact, tolerance=1e-5)
