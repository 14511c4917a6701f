"""Experts on packed weights in Triton against the float64 reference on what the packed weights stand for."""

# pyright: basic
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from llmc.kernels.gpu.tuning import forced
from llmc.kernels.moe import reference, triton_experts_packed, triton_stack
from llmc.kernels.tolerance import assert_close

from .conditioned import widened
from .experts_cases import cases, typed
from .gpu import DTYPES

FORMATS = ("int8", "int4", "int4_128", "ternary")
STACKS = ("gate_proj", "up_proj", "gate_up_proj", "down_proj")


def check(case: dict[str, object], format: str, dtype: torch.dtype, suffix: str = "") -> None:
    given_stacks = {
        name: v for name, v in typed(case, torch.float32).items() if isinstance(v, Tensor) and name in STACKS
    }
    is_in_out = case["layout"] == "in_out"
    packed = {name: triton_stack.pack(value, format, is_in_out=is_in_out) for name, value in given_stacks.items()}
    kept = {
        name: triton_stack.dequantised(packed[name], value.shape[1 if is_in_out else 2], format).double()
        for name, value in given_stacks.items()
    }
    ours = typed(case, dtype) | packed
    expected = reference.experts(**widened(typed(case, dtype)) | kept | {"layout": "out_in"})  # type: ignore[arg-type]
    found = getattr(triton_experts_packed, format + suffix)(**ours)
    assert_close("out", found, expected, tolerance=tolerance(format, dtype, is_widened=bool(suffix)))


def tolerance(format: str, dtype: torch.dtype, *, is_widened: bool) -> float | None:
    """Widened weights are rounded to x's dtype; what the offset of 8 adds to sums of int4 is taken off them again."""
    if dtype == torch.float16:
        return 2e-3 if is_widened or format == "ternary" else None
    return 2e-5 if format.startswith("int4") else None


@given(case=cases((0, 1, 2)), format=st.sampled_from(["int8", "int4", "int4_128"]), dtype=st.sampled_from(DTYPES))
def test_few_tokens(case: dict[str, object], format: str, dtype: torch.dtype) -> None:
    config = {"BLOCK_OUT": 16, "BLOCK_IN": 64 if format == "int8" else 2, "num_warps": 4}
    with forced("experts_packed_inner", config), forced("experts_packed_outputs", config):
        check(case, format, dtype)


@pytest.mark.parametrize("format", FORMATS)
def test_with_the_rule_with_many_tokens_and_in_torch(format: str) -> None:
    make = torch.Generator().manual_seed(0)
    for layout, tokens, suffix in (("out_in", 1, ""), ("in_out", 9, ""), ("in_out", 2, "_torch")):
        up, down = (torch.randn(3, *shape, generator=make) / 6 for shape in ((33, 40), (40, 33)))
        if layout == "in_out":
            up, down = up.mT.contiguous(), down.mT.contiguous()
        picks = torch.randint(0, 3, (1, tokens, 2), generator=make)
        case: dict[str, object] = {"x": torch.randn(1, tokens, 40, generator=make), "experts": picks}
        case |= {"weights": torch.rand(1, tokens, 2, generator=make), "up_proj": up, "down_proj": down}
        check(case | {"layout": layout}, format, torch.float32, suffix)
