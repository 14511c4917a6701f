"""Norms against float64, against transformers, and against torch's own operators."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from llmc.kernels.kernel import Request
from llmc.kernels.norm import fused, reference
from llmc.kernels.tolerance import assert_close

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_is_llamas_bit_by_bit(dtype: torch.dtype) -> None:
    norm = LlamaRMSNorm(60, eps=1e-5).to(dtype)
    norm.weight.data.normal_()
    x = torch.randn(2, 7, 60).to(dtype)
    assert torch.equal(reference.rms_norm(x=x, weight=norm.weight, eps=1e-5), norm(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_with_offset_is_gemmas_bit_by_bit(dtype: torch.dtype) -> None:
    norm = GemmaRMSNorm(60, eps=1e-6).to(dtype)
    norm.weight.data.normal_()
    x = torch.randn(2, 7, 60).to(dtype)
    assert torch.equal(reference.rms_norm(x=x, weight=norm.weight, eps=1e-6, weight_offset=1.0), norm(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_is_torchs(dtype: torch.dtype) -> None:
    norm = torch.nn.LayerNorm(60, eps=1e-5, dtype=dtype)
    norm.weight.data.normal_()
    norm.bias.data.normal_()
    x = torch.randn(2, 7, 60).to(dtype) * 3 + 1
    assert_close("out", reference.layer_norm(x=x, weight=norm.weight, bias=norm.bias, eps=1e-5), norm(x))


def test_a_norm_by_head_is_the_norm_of_each_head() -> None:
    x, weight, each = torch.randn(2, 7, 60), torch.randn(20), torch.randn(60)
    heads = x.view(2, 7, 3, 20)
    for norm in (reference.rms_norm, reference.layer_norm):
        whole = norm(x=heads, weight=weight, eps=1e-5).flatten(-2)
        assert torch.equal(norm(x=x, weight=weight, eps=1e-5, head_dim=20), whole)
        own = torch.cat(
            [norm(x=h, weight=w, eps=1e-5) for h, w in zip(x.split(20, -1), each.split(20), strict=True)], -1
        )
        assert torch.equal(norm(x=x, weight=each, eps=1e-5, head_dim=20), own)


@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_adds_equal_add_then_norm(dtype: torch.dtype) -> None:
    delta, residual, weight, bias = (torch.randn(*s).to(dtype) for s in ((2, 7, 60), (2, 7, 60), (60,), (60,)))
    total = residual + delta
    for module in (reference, fused):
        out, summed = module.add_rms_norm(delta=delta, residual=residual, weight=weight, eps=1e-5)
        assert torch.equal(summed, total)
        assert torch.equal(out, module.rms_norm(x=total, weight=weight, eps=1e-5))
        out, summed = module.add_layer_norm(delta=delta, residual=residual, weight=weight, bias=bias, eps=1e-5)
        assert torch.equal(summed, total)
        assert torch.equal(out, module.layer_norm(x=total, weight=weight, bias=bias, eps=1e-5))


def test_group_norm_is_torchs_token_by_token() -> None:
    x, weight, bias = torch.randn(2, 7, 60), torch.randn(60), torch.randn(60)
    expected = torch.nn.functional.group_norm(x.view(14, 60), 5, weight, bias, 1e-5).view(2, 7, 60)
    assert_close("out", reference.group_norm(x=x, weight=weight, bias=bias, num_groups=5, eps=1e-5), expected)


def test_l2_norm_gives_unit_heads() -> None:
    x = torch.randn(2, 7, 60)
    out = reference.l2_norm(x=x, eps=0.0, head_dim=20)
    assert_close("out", out, torch.nn.functional.normalize(x.view(2, 7, 3, 20), dim=-1).flatten(-2))
    assert_close("whole", reference.l2_norm(x=x, eps=1e-6).norm(dim=-1), torch.ones(2, 7))


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 5),
    heads=st.integers(1, 4),
    head_dim=st.integers(2, 33),
    by_head=st.booleans(),
    size=st.sampled_from([1e-4, 1.0, 1e4]),
)
def test_norms_agree_with_float64(rows: int, heads: int, head_dim: int, by_head: bool, size: float) -> None:
    x = torch.randn(rows, heads * head_dim) * size
    per = head_dim if by_head else None
    weight, bias = torch.randn(per or heads * head_dim), torch.randn(per or heads * head_dim)
    for module in (reference, fused):
        rms = module.rms_norm(x=x, weight=weight, eps=1e-6, head_dim=per)
        exact = reference.rms_norm(x=x.double(), weight=weight.double(), eps=1e-6, head_dim=per)
        assert_close("rms_norm", rms, exact)
        layer = module.layer_norm(x=x, weight=weight, bias=bias, eps=1e-6, head_dim=per)
        exact = reference.layer_norm(x=x.double(), weight=weight.double(), bias=bias.double(), eps=1e-6, head_dim=per)
        assert_close("layer_norm", layer, exact, tolerance=2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fused_norms_that_are_served_in_half_precision_agree(dtype: torch.dtype) -> None:
    x, weight = torch.randn(2, 7, 60).to(dtype), torch.randn(60).to(dtype)
    assert_close("rms", fused.rms_norm(x=x, eps=1e-5), reference.rms_norm(x=x, eps=1e-5))
    assert_close(
        "layer",
        fused.layer_norm(x=x, weight=weight, eps=1e-5, head_dim=None),
        reference.layer_norm(x=x, weight=weight, eps=1e-5),
    )


def _request(dtype: str = "float32", weight: tuple[int, ...] | None = (60,), **fields: object) -> Request:
    shapes: dict[str, tuple[int | str, ...]] = {"x": ("B", "T", 60)}
    if weight is not None:
        shapes["weight"] = weight
    return Request(op="rms_norm", fields=fields, shapes=shapes, dtype=dtype, device="cpu", phase="decode")


def test_refusals_name_their_reason() -> None:
    assert fused.serves_rms_norm(_request()) is None
    assert fused.serves_rms_norm(_request("bfloat16", weight=None)) is None
    assert fused.serves_rms_norm(_request(weight=(20,), head_dim=20)) is None
    assert "after the weight" in str(fused.serves_rms_norm(_request("bfloat16")))
    assert "offset" in str(fused.serves_rms_norm(_request(weight_offset=1.0)))
    assert "all heads" in str(fused.serves_rms_norm(_request(weight=(60,), head_dim=20)))
    assert "all heads" in str(fused.serves_layer_norm(_request(weight=(60,), head_dim=20)))
    with pytest.raises(ValueError, match="offset"):
        fused.rms_norm(x=torch.ones(2), eps=1e-5, weight_offset=1.0)


def test_gradients() -> None:
    x, w, b = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 6), (6,), (6,)))

    def rms(x: Tensor, w: Tensor) -> Tensor:
        return reference.rms_norm(x=x, weight=w, eps=1e-5)

    def gemma(x: Tensor, w: Tensor) -> Tensor:
        return reference.rms_norm(x=x, weight=w, eps=1e-5, weight_offset=1.0)

    def layer(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return reference.layer_norm(x=x, weight=w, bias=b, eps=1e-5)

    def group(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return reference.group_norm(x=x, weight=w, bias=b, num_groups=2, eps=1e-5)

    def l2(x: Tensor) -> Tensor:
        return reference.l2_norm(x=x, eps=1e-5, head_dim=3)

    def fused_sum(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        return reference.add_rms_norm(delta=x, residual=2 * x, weight=w, eps=1e-5)

    for function, operands in ((rms, (x, w)), (gemma, (x, w)), (layer, (x, w, b)), (group, (x, w, b)), (l2, (x,))):
        assert torch.autograd.gradcheck(function, operands)
    assert torch.autograd.gradcheck(fused_sum, (x, w))
