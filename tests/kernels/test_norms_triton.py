"""The other norms in Triton against their float64 references: values and gradients, strides, no rows."""

# pyright: basic
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from llmc.kernels.norm import reference, triton_layer_norm, triton_rms_norm
from llmc.kernels.tolerance import assert_close

from .gpu import DEVICE, DTYPES

KERNELS = {
    "add_rms_norm": triton_rms_norm.add_rms_norm,
    "layer_norm": triton_layer_norm.layer_norm,
    "add_layer_norm": triton_layer_norm.add_layer_norm,
    "group_norm": triton_layer_norm.group_norm,
    "l2_norm": triton_layer_norm.l2_norm,
}


def fields(name: str, heads: int, width: int, flag: bool) -> dict[str, object]:
    """What the op's node says, but for its tensors."""
    match name:
        case "add_rms_norm":
            return {"eps": 1e-6, "weight_offset": 1.0 if flag else 0.0}
        case "group_norm":
            return {"eps": 1e-5, "num_groups": heads, "centre": flag}
        case "l2_norm":
            return {"eps": 1e-6, "head_dim": width if flag else None}
        case "layer_norm":
            return {"eps": 1e-5, "head_dim": width if flag else None}
    return {"eps": 1e-5}


def tensors(name: str, rows: int, heads: int, width: int, has_weight: bool, is_strided: bool) -> dict[str, Tensor]:
    """Its tensors, in float32; strided ones lie in wider rows, as the parts of a fused projection do."""
    full = heads * width
    takes_two = name.startswith("add_")
    made: dict[str, Tensor] = {}
    for port in ("residual", "delta") if takes_two else ("x",):
        made[port] = torch.randn(rows, full + 5)[:, 2 : 2 + full] if is_strided else torch.randn(rows, full)
    if has_weight and name != "l2_norm":
        made["weight"] = torch.randn(full) + 1.0
        if name != "add_rms_norm":
            made["bias"] = torch.randn(full)
    return made


@pytest.mark.parametrize("name", KERNELS)
@given(
    rows=st.sampled_from([0, 1, 5]),
    heads=st.integers(1, 3),
    width=st.sampled_from([3, 17, 64, 100]),
    has_weight=st.booleans(),
    flag=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    is_strided=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_values_and_gradients(
    name: str, rows: int, heads: int, width: int, has_weight: bool, flag: bool, dtype: torch.dtype, is_strided: bool,
    seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    given = tensors(name, rows, heads, width, has_weight, is_strided)
    given = {port: value.to(DEVICE, dtype) for port, value in given.items()}
    options = fields(name, heads, width, flag)
    grads = [torch.randn(rows, heads * width).to(DEVICE, dtype) for _ in range(2)]

    def run(function: object, tensors: dict[str, Tensor]) -> list[Tensor]:
        leaves = {port: value.detach().requires_grad_() for port, value in tensors.items()}
        found = function(**leaves, **options)  # type: ignore[operator]
        outs = found if isinstance(found, tuple) else (found,)
        given = [grad.to(out.dtype) for out, grad in zip(outs, grads, strict=False)]
        return [*(out.detach() for out in outs), *torch.autograd.grad(outs, list(leaves.values()), given)]

    ours = run(KERNELS[name], given)
    exact = run(getattr(reference, name), {port: value.double() for port, value in given.items()})
    for index, (actual, expected) in enumerate(zip(ours, exact, strict=True)):
        assert_close(f"{name}.{index}", actual, expected)


def test_a_sum_alone_has_a_gradient() -> None:
    """The residual goes on where the norm is not read."""
    delta, residual = torch.randn(2, 3, 20, device=DEVICE, requires_grad=True), torch.randn(2, 3, 20, device=DEVICE)
    _, total = triton_rms_norm.add_rms_norm(delta=delta, residual=residual, eps=1e-6)
    (grad,) = torch.autograd.grad(total.sum(), [delta])
    assert torch.equal(grad, torch.ones_like(grad))
