"""Ops that move features, and arithmetic on whole values."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
from __future__ import annotations

import pytest
import torch

from llmc.kernels.layout.reference import mix_streams, reshape, slice_features, split_heads, tile
from llmc.kernels.pointwise.reference import clamp, div, lerp, reduce, sub, topk_sparsity
from llmc.kernels.tolerance import assert_close


def test_split_heads_cuts_every_head() -> None:
    x = torch.arange(2 * 3 * 10.0).view(2, 3, 10)
    a, b = split_heads(x=x, sizes={"a": 2, "b": 3})
    assert a[0, 0].tolist() == [0, 1, 5, 6]
    assert b[0, 0].tolist() == [2, 3, 4, 7, 8, 9]


def test_moving_features() -> None:
    x = torch.randn(2, 3, 6)
    assert torch.equal(slice_features(x=x, start=2, size=3), x[..., 2:5])
    assert torch.equal(tile(x=x, times=2), torch.cat((x, x), dim=-1))
    assert reshape(x=x, shape=[2, 3]).shape == (2, 3, 2, 3)
    assert reshape(x=x, shape=[36], keep=0).shape == (36,)


def test_mix_streams() -> None:
    x, weights = torch.randn(2, 3, 4 * 5), torch.randn(2, 3, 2 * 4)
    expected = torch.einsum("btrs,btsm->btrm", weights.view(2, 3, 2, 4), x.view(2, 3, 4, 5)).flatten(-2)
    assert_close("out", mix_streams(x=x, weights=weights, num_streams=4), expected)


def test_arithmetic() -> None:
    a, b, w = torch.randn(2, 3, 4), torch.rand(4) + 1, torch.rand(1, 1, 4)
    assert torch.equal(sub(a=a, b=b), a - b)
    assert torch.equal(div(a=a, b=b), a / b)
    assert torch.equal(lerp(a=a, b=b, weight=w), a + (b - a) * w)
    assert torch.equal(clamp(x=a, min=-0.5), a.clamp(min=-0.5))
    assert torch.equal(clamp(x=a, max=0.5), a.clamp(max=0.5))
    assert clamp(x=a) is a


@pytest.mark.parametrize("head_dim", [None, 3])
def test_reduce(head_dim: int | None) -> None:
    x = torch.randn(2, 5, 6)
    heads = x.view(2, 5, -1, head_dim or 6)
    expected = {
        "sum": heads.sum(-1), "mean": heads.mean(-1), "rms": heads.pow(2).mean(-1).sqrt(), "max": heads.amax(-1),
    }  # fmt: skip
    for kind in ("sum", "mean", "rms", "max"):
        assert_close(kind, reduce(x=x, kind=kind, head_dim=head_dim), expected[kind])
        kept = reduce(x=x, kind=kind, head_dim=head_dim, keep=True)
        assert_close(kind, kept, expected[kind][..., None].expand_as(heads).reshape(x.shape))


def test_topk_sparsity_keeps_about_that_share() -> None:
    x = torch.randn(3, 100_000, dtype=torch.float64)
    for sparsity in (0.5, 0.95):
        out = topk_sparsity(x=x, sparsity=sparsity)
        assert abs(float((out == 0).double().mean()) - sparsity) < 0.01
    assert topk_sparsity(x=x, sparsity=0.0) is x
