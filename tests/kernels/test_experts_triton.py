"""Experts in Triton against the float64 reference: every packing and layout, odd sizes, experts that nobody picked."""

# pyright: basic
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from llmc.kernels.gpu.tuning import forced
from llmc.kernels.moe import reference, triton_experts_grouped
from llmc.kernels.moe.fields import Layout
from llmc.kernels.moe.triton_dispatch import dispatch
from llmc.kernels.moe.triton_experts import experts
from llmc.kernels.tolerance import assert_close

from .conditioned import widened
from .experts_cases import cases, typed
from .gpu import DEVICE, DTYPES

SMALL = {"BLOCK_OUT": 16, "BLOCK_IN": 16, "STAGES": 1, "num_warps": 4, "num_stages": 1}


def check(case: dict[str, object], dtype: torch.dtype) -> None:
    """Equal to the reference in float64, though the weights of the expert that nobody picked are no numbers."""
    ours = typed(case, dtype)
    for name in ("gate_proj", "up_proj", "gate_up_proj", "down_proj"):
        if name in ours:
            ours[name][-1] = torch.nan  # type: ignore[index]
    exact = widened(typed(case, dtype))
    assert_close("out", experts(**ours), reference.experts(**exact))  # type: ignore[arg-type]


@given(case=cases((0, 1, 2)), dtype=st.sampled_from(DTYPES), parts=st.integers(1, 4))
def test_few_tokens(case: dict[str, object], dtype: torch.dtype, parts: int) -> None:
    with (
        forced("experts_decode_inner", SMALL | {"PARTS": 1}),
        forced("experts_decode_outputs", SMALL | {"PARTS": parts}),
    ):
        check(case, dtype)


@given(case=cases((17,)), dtype=st.sampled_from(DTYPES))
def test_many_tokens(case: dict[str, object], dtype: torch.dtype) -> None:
    config = {"BLOCK_N": 32, "BLOCK_K": 64, "num_warps": 4, "num_stages": 2}
    with (
        pytest.MonkeyPatch.context() as patch,
        forced("experts_grouped_first", config),
        forced("experts_grouped_second", config),
    ):
        patch.setattr(triton_experts_grouped, "MULTIPROCESSORS", 1)  # so that a program takes several tiles
        check(case, dtype)


@pytest.mark.parametrize("layout", ["out_in", "in_out"])
def test_few_tokens_with_the_rule(layout: Layout) -> None:
    make = torch.Generator().manual_seed(0)
    up, down = (torch.randn(3, *shape, generator=make).to(DEVICE) for shape in ((70, 24), (24, 70)))
    up, down = (up, down) if layout == "out_in" else (up.mT.contiguous(), down.mT.contiguous())
    x, weights = torch.randn(1, 1, 24, generator=make).to(DEVICE), torch.tensor([[[0.4, 0.6]]], device=DEVICE)
    picked = torch.tensor([[[2, 0]]], device=DEVICE)
    found = experts(x=x, weights=weights, experts=picked, up_proj=up, down_proj=down, layout=layout)
    exact = reference.experts(
        x=x.double(), weights=weights.double(), experts=picked, up_proj=up.double(), down_proj=down.double(),
        layout=layout,  # type: ignore[arg-type]
    )  # fmt: skip
    assert_close("out", found, exact)


@pytest.mark.parametrize(("slots", "count", "block"), [(1, 1, 16), (40, 3, 128), (300, 20, 16), (150, 129, 16)])
def test_dispatch_is_a_stable_sort(slots: int, count: int, block: int) -> None:
    picks = torch.randint(0, count, (slots, 1), generator=torch.Generator().manual_seed(slots)).to(DEVICE)
    found = dispatch(picks, count, block)
    order = picks.flatten().argsort(stable=True)
    assert torch.equal(found.slots, order.int())
    assert torch.equal(found.positions[order], torch.arange(slots, dtype=torch.int32, device=DEVICE))
    sizes = picks.flatten().bincount(minlength=count).tolist()
    assert found.starts.diff().tolist() == sizes
    tiles = [(e, int(found.starts[e]) + row) for e, size in enumerate(sizes) for row in range(0, size, block)]
    assert found.tiles[: int(found.count)].tolist() == [list(tile) for tile in tiles]
    assert len(tiles) <= len(found.tiles)
