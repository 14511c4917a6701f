"""RoPE in Triton: its turn and gradient against the float64 reference, its table against the reference under every law.

A table's powers differ from torch's in their last bit, 6e-8 of the angle: at positions to 2000 angles are within 2e-4.
"""

# pyright: basic
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from llmc.kernels.rope import reference
from llmc.kernels.rope.fields import RopeLayout
from llmc.kernels.rope.triton_rope import rope_apply
from llmc.kernels.rope.triton_table import rope_table
from llmc.kernels.tolerance import assert_close

from .gpu import DEVICE, DTYPES

LAWS = {
    "none": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 2.0, "max_seq_len": 100},
    "llama3": {"factor": 8.0, "original_max_seq_len": 512},
    "yarn": {"factor": 4.0, "original_max_seq_len": 256},
    "longrope": {"original_max_seq_len": 100, "max_seq_len": 400},
    "proportional": {"rotary_fraction": 0.5, "factor": 2.0},
}


@given(
    tokens=st.sampled_from([1, 2, 5]),
    heads=st.integers(1, 5),
    head_dim=st.sampled_from([6, 20, 64]),
    rest=st.sampled_from([0, 4]),
    layout=st.sampled_from(["half", "interleaved"]),
    is_strided=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_turns_and_turns_back(
    tokens: int, heads: int, head_dim: int, rest: int, layout: RopeLayout, is_strided: bool, dtype: torch.dtype,
    seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    dims = head_dim - rest
    x = torch.randn(2, tokens, heads * head_dim + 6)[..., 3:-3]
    x = (x if is_strided else x.contiguous()).to(DEVICE, dtype).requires_grad_()
    table = torch.randn(2, tokens, dims).to(dtype).float().to(DEVICE)
    grad = torch.randn_like(x, memory_format=torch.contiguous_format)
    options = {"head_dim": head_dim, "rotary_dim": dims if rest else None, "layout": layout}
    out = rope_apply(x=x, table=table, **options)
    exact = x.detach().double().requires_grad_()
    expected = reference.rope_apply(x=exact, table=table.double(), **options)
    assert_close("out", out.detach(), expected)
    assert_close("x.grad", torch.autograd.grad(out, x, grad)[0], torch.autograd.grad(expected, exact, grad.double())[0])


@pytest.mark.parametrize("scaling", LAWS)
@given(
    dims=st.sampled_from([2, 6, 64]), theta=st.sampled_from([1e4, 5e5]), is_long=st.booleans(), seed=st.integers(0, 99)
)
def test_tables(scaling: str, dims: int, theta: float, is_long: bool, seed: int) -> None:
    torch.manual_seed(seed)
    if scaling == "dynamic" and dims == 2:
        dims = 4
    position = torch.randint(-1, 2000 if is_long else 90, (2, 3)).to(DEVICE)
    options = {**LAWS[scaling], "rotary_dim": dims, "theta": theta, "scaling": scaling}
    if scaling == "longrope":
        options |= {"short_factor": [1.0 + i for i in range(dims // 2)], "long_factor": [3.0] * (dims // 2)}
    actual, expected = rope_table(position=position, **options), reference.rope_table(position=position, **options)
    assert_close(scaling, actual, expected, tolerance=2e-4)
    gain = expected.square().mean().sqrt() / actual.square().mean().sqrt()
    assert abs(float(gain) - 1.0) < 1e-6


def test_a_law_without_its_numbers_says_which() -> None:
    with pytest.raises(ValueError, match="rope scaling 'yarn' needs original_max_seq_len"):
        rope_table(position=torch.zeros(1, 1, dtype=torch.int64, device=DEVICE), rotary_dim=8, scaling="yarn")
