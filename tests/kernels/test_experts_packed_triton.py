"""Experts on packed weights in Triton against the float64 reference on what the packed weights stand for."""

# pyright: basic
from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from llmc.kernels.gpu.tuning import forced
from llmc.kernels.kernel import Request
from llmc.kernels.moe import packed_reference, reference, triton_experts_grouped, triton_experts_packed, triton_stack
from llmc.kernels.moe.fields import Experts
from llmc.kernels.registry import kernels_for
from llmc.kernels.tolerance import TOLERANCE

from .conditioned import assert_conditioned, widened
from .experts_cases import cases, typed
from .gpu import DTYPES

FORMATS = ("int8", "int4", "int4_128", "ternary")
STACKS = ("gate_proj", "up_proj", "gate_up_proj", "down_proj")


def check(
    case: dict[str, object], format: str, dtype: torch.dtype, *, suffix: str = "", keeps_units: bool = True
) -> None:
    """keeps_units: inner units are held in float32, not in x's dtype."""
    given_stacks = {
        name: v for name, v in typed(case, torch.float32).items() if isinstance(v, Tensor) and name in STACKS
    }
    is_in_out = case["layout"] == "in_out"
    packed = {name: triton_stack.pack(value, format, is_in_out=is_in_out) for name, value in given_stacks.items()}
    kept = {
        name: triton_stack.dequantised(packed[name], value.shape[1 if is_in_out else 2], format).double()
        for name, value in given_stacks.items()
    }
    found = getattr(triton_experts_packed, format + suffix)(**typed(case, dtype) | packed)
    plain = {name: value for name, value in typed(case, dtype).items() if name not in STACKS} | {"layout": "out_in"}

    def exactly(wide: dict[str, object]) -> dict[str, Tensor]:
        record = Experts(**{**wide, **kept})  # type: ignore[arg-type]
        if format == "ternary":
            return {"out": packed_reference.packed_experts(record, in_format=format, down_format=format)}
        return {"out": reference.experts.of(record)}

    if format == "ternary":
        record = Experts(**{**widened(plain), **kept})
        out = exactly(widened(plain))["out"]
        found = out + beyond_ties(record, found.double() - out, nearness=1e-3 if keeps_units else 0.1)
    bound = tolerance(format, dtype, is_widened=bool(suffix) or not keeps_units)
    assert_conditioned({"out": found}, exactly, plain, dtype=dtype, tolerance=bound)


def tolerance(format: str, dtype: torch.dtype, *, is_widened: bool) -> float | None:
    """Widened weights are rounded to x's dtype; what the offset of 8 adds to sums of int4 is taken off them again."""
    if dtype == torch.float16:
        return 2e-3 if is_widened or format == "ternary" else None
    return 2e-5 if format.startswith("int4") else TOLERANCE[dtype]


def beyond_ties(given: Experts, off: Tensor, *, nearness: float) -> Tensor:
    """What of a difference of outputs is not due to inner units that lie so near the middle of two whole numbers that
    they may be rounded to either."""
    units = packed_reference.inner_units(given, "ternary")
    step = units.abs().amax(-1, keepdim=True).clamp(min=1e-5) / 127
    is_near = ((units / step).frac().abs() - 0.5).abs() < nearness
    share = given.weights.reshape(-1, 1) if given.weighs == "output" else 1.0
    slack = torch.einsum("pf,pmf->pm", is_near * step * share, given.down_proj[given.experts.reshape(-1)].abs())
    slack = slack.view(*given.experts.shape, off.shape[-1]).sum(-2)
    return off.sign() * (off.abs() - slack).clamp(min=0)


def config(format: str) -> dict[str, int]:
    """Small tiles for few tokens: of ternary ones a row is in one piece."""
    return {"BLOCK_OUT": 16, "BLOCK_IN": {"int8": 64, "ternary": 4}.get(format, 2), "num_warps": 4}


@given(case=cases((0, 1, 2)), format=st.sampled_from(FORMATS), dtype=st.sampled_from(DTYPES), held=st.integers(0, 2))
def test_few_tokens(case: dict[str, object], format: str, dtype: torch.dtype, held: int) -> None:
    with (
        forced("experts_packed_inner", config(format)),
        forced("experts_packed_outputs", config(format)),
        forced("experts_ternary_outputs", {"BLOCK_OUT": 16, "PICKS": 2**held, "num_warps": 4}),
    ):
        check(case, format, dtype)


@given(case=cases((7,)), format=st.sampled_from(FORMATS), dtype=st.sampled_from(DTYPES))
def test_many_tokens(case: dict[str, object], format: str, dtype: torch.dtype) -> None:
    tiles = {"BLOCK_N": 32, "BLOCK_K": 32, "num_warps": 4, "num_stages": 2}
    with pytest.MonkeyPatch.context() as patch, forced("experts_packed_grouped", tiles):
        patch.setattr(triton_experts_packed, "FEW", 0)
        patch.setattr(triton_experts_grouped, "MULTIPROCESSORS", 1)  # so that a program takes several tiles
        check(case, format, dtype, keeps_units=False)


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
        check(case | {"layout": layout}, format, torch.float32, suffix=suffix)


def test_rows_that_no_program_holds_are_refused() -> None:
    shapes = {"x": (1, "T", 4096), "down_proj": (8, 4096, 40960)}
    asked = Request(
        op="experts", fields={"num_experts": 8}, shapes=shapes, dtype="bfloat16", device="cuda:sm_90", phase="prefill"
    )
    kernels = {kernel.format: kernel for kernel in kernels_for("experts")}
    assert kernels["int4"].refusal(replace(asked, format="int4")) is None
    assert kernels["ternary"].refusal(replace(asked, format="ternary")) == "a row of 40960 features is wider than 32768"
