"""Activations, gates and the soft cap in Triton against the float64 reference: values and gradients, strides."""

# pyright: basic
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from llmc.kernels.pointwise import reference, triton_activation
from llmc.kernels.pointwise.reference import ActivationKind
from llmc.kernels.tolerance import assert_close

from .gpu import DEVICE, DTYPES


@pytest.mark.parametrize("name", ["activation", "gated_activation", "gated_activation_packed", "softcap"])
@given(
    rows=st.sampled_from([0, 1, 3]),
    width=st.sampled_from([1, 17, 1030]),
    kind=st.sampled_from(ActivationKind.__args__),
    is_strided=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_values_and_gradients(
    name: str, rows: int, width: int, kind: ActivationKind, is_strided: bool, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    ports = ("gate", "up") if name == "gated_activation" else ("x",)
    full = 2 * width if name.endswith("packed") else width
    made = {port: torch.randn(2, rows, full + 6)[..., 3:-3] for port in ports}
    made = {port: (x if is_strided else x.contiguous()).to(DEVICE, dtype) for port, x in made.items()}
    options = {"cap": 3.0} if name == "softcap" else {"kind": kind}
    grad = torch.randn(2, rows, width).to(DEVICE, dtype)

    def run(module: object, tensors: dict[str, Tensor]) -> list[Tensor]:
        leaves = {port: value.detach().requires_grad_() for port, value in tensors.items()}
        out = getattr(module, name)(**leaves, **options)
        return [out.detach(), *torch.autograd.grad(out, list(leaves.values()), grad.to(out.dtype))]

    ours = run(triton_activation, made)
    exact = run(reference, {port: value.double() for port, value in made.items()})
    for index, (actual, expected) in enumerate(zip(ours, exact, strict=True)):
        assert_close(f"{name}.{index}", actual, expected)
