"""Pointwise ops, linear and embedding against torch, transformers and plain loops."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.activations import ACT2FN
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

from llmc.kernels.embedding.reference import embedding
from llmc.kernels.linear.reference import linear
from llmc.kernels.pointwise import reference
from llmc.kernels.pointwise.reference import ActivationKind, PoolKind, pool, sinusoidal
from llmc.kernels.tolerance import assert_close

KINDS: tuple[ActivationKind, ...] = get_args(ActivationKind)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("gelu", "gelu"),
        ("gelu_tanh", "gelu_pytorch_tanh"),
        ("gelu_quick", "quick_gelu"),
        ("relu", "relu"),
        ("relu2", "relu2"),
        ("silu", "silu"),
        ("sigmoid", "sigmoid"),
        ("tanh", "tanh"),
        ("identity", "linear"),
    ],
)
def test_activations_are_those_of_transformers(kind: ActivationKind, name: str) -> None:
    x = torch.randn(3, 7, 20) * 3
    assert_close(kind, reference.activation(x=x, kind=kind), ACT2FN[name](x))


def test_other_activations() -> None:
    x = torch.randn(3, 7)
    assert_close("exp", reference.activation(x=x, kind="exp"), x.exp())
    assert_close("softplus", reference.activation(x=x, kind="softplus"), (1 + x.double().exp()).log())


@pytest.mark.parametrize("kind", KINDS)
def test_gated_forms_agree(kind: ActivationKind) -> None:
    gate, up = torch.randn(2, 7, 20), torch.randn(2, 7, 20)
    expected = reference.activation(x=gate, kind=kind) * up
    assert torch.equal(reference.gated_activation(gate=gate, up=up, kind=kind), expected)
    packed = torch.cat((gate, up), -1)
    assert_close("packed", reference.gated_activation_packed(x=packed, kind=kind), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_activations(kind: ActivationKind) -> None:
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)

    def packed(x: Tensor) -> Tensor:
        return reference.gated_activation_packed(x=x, kind=kind)

    assert torch.autograd.gradcheck(packed, (x,))


def test_softcap_stays_below_its_cap_and_is_the_identity_near_zero() -> None:
    x = torch.linspace(-1000, 1000, 101)
    assert reference.softcap(x=x, cap=30.0).abs().max() <= 30.0
    assert_close("near zero", reference.softcap(x=x * 1e-5, cap=30.0), x * 1e-5, tolerance=1e-6)


def test_split_and_concat_are_inverse() -> None:
    x = torch.randn(2, 7, 20)
    parts = reference.split(x=x, sizes=[3, 16, 1])
    assert [p.shape[-1] for p in parts] == [3, 16, 1]
    assert torch.equal(reference.concat(xs=parts), x)
    assert all(map(torch.equal, reference.split(x=x, sizes={"a": 3, "b": 16, "c": 1}), parts))


def test_small_ops() -> None:
    x, y = torch.randn(2, 3, 4), torch.randn(4)
    assert torch.equal(reference.add(a=x, b=y), x + y)
    assert torch.equal(reference.mul(a=x, b=y), x * y)
    assert torch.equal(reference.scale(x=x, factor=0.5), x / 2)
    assert torch.equal(reference.select(x=x, index=-1, axis=1), x[:, -1])
    assert torch.equal(reference.zeros_like(x=x), torch.zeros(2, 3, 4))
    assert reference.identity(x=x) is x
    assert torch.equal(reference.dropout(x=x, p=0.5, training=False), x)
    dropped = reference.dropout(x=torch.ones(1000), p=0.25, training=True)
    assert set(dropped.tolist()) == {0.0, float(torch.tensor(1 / 0.75))}


POOLS: tuple[PoolKind, ...] = get_args(PoolKind)


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=4),
    on_left=st.booleans(),
    kind=st.sampled_from(POOLS),
)
def test_pool_ignores_padding(lengths: list[int], on_left: bool, kind: PoolKind) -> None:
    x = torch.full((len(lengths), 7, 5), 1e9)
    position = torch.full((len(lengths), 7), -1)
    expected: list[Tensor] = []
    for row, length in enumerate(lengths):
        start = 7 - length if on_left else 0
        tokens = torch.randn(length, 5)
        x[row, start : start + length] = tokens
        position[row, start : start + length] = torch.arange(length)
        if length == 0:
            expected.append(torch.zeros(5))
        else:
            by_kind = {"first": tokens[0], "last": tokens[-1], "mean": tokens.mean(0), "max": tokens.amax(0)}
            expected.append(by_kind[kind])
    assert_close(kind, pool(x=x, position=position, kind=kind), torch.stack(expected))


def test_pool_survives_nan_in_padding() -> None:
    x, position = torch.randn(1, 3, 4), torch.tensor([[-1, 0, 1]])
    x[0, 0] = torch.nan
    for kind in POOLS:
        assert pool(x=x, position=position, kind=kind).isfinite().all(), kind


def test_sinusoidal_halves_are_marians() -> None:
    table = MarianSinusoidalPositionalEmbedding(50, 20).create_weight()
    position = torch.tensor([[0, 1, 2, 30, 49]])
    assert_close("half", sinusoidal(position=position, features=20, layout="half"), table[position], tolerance=1e-5)


@pytest.mark.parametrize("features", [20, 7])
def test_sinusoidal_layouts_hold_the_same_numbers(features: int) -> None:
    position = torch.tensor([[-1, 0, 5, 1000]])
    whole = sinusoidal(position=position, features=features)
    exact = position.clamp(min=0)[..., None].double() / 10000 ** (torch.arange(0, features, 2).double() / features)
    assert whole.shape == (1, 4, features)
    assert whole.dtype == torch.float32
    assert_close("sines", whole[..., 0::2], exact.sin(), tolerance=1e-4)
    assert_close("cosines", whole[..., 1::2], exact.cos()[..., : features // 2], tolerance=1e-4)
    half = sinusoidal(position=position, features=features, layout="half")
    assert torch.equal(half, torch.cat((whole[..., 0::2], whole[..., 1::2]), -1))


def test_linear() -> None:
    x, weight, bias = torch.randn(2, 7, 20), torch.randn(13, 20), torch.randn(13)
    expected = x.double() @ weight.double().T
    assert_close("without bias", linear(x=x, weight=weight), expected)
    assert_close("with bias", linear(x=x, weight=weight, bias=bias), expected + bias)


def test_embedding_reads_row_zero_for_padding_and_adds_its_offset() -> None:
    weight = torch.randn(10, 6)
    ids = torch.tensor([[-1, 0, 7]])
    assert torch.equal(embedding(ids=ids, weight=weight), weight[torch.tensor([[0, 0, 7]])])
    assert torch.equal(embedding(ids=ids, weight=weight, offset=2), weight[torch.tensor([[1, 2, 9]])])


def test_embedding_rounds_its_scale_to_the_dtype() -> None:
    weight = torch.randn(10, 6).bfloat16()
    out = embedding(ids=torch.arange(10)[None], weight=weight, scale=3072**0.5)
    assert torch.equal(out[0], weight * torch.tensor(55.5, dtype=torch.bfloat16))


@pytest.mark.parametrize("offset", [0, 1])
def test_position_scale_grows_by_the_period(offset: int) -> None:
    x, position = torch.randn(2, 5, 6), torch.tensor([[0, 3, 4, 5, 99], [-1, -1, 0, 1, 2]])
    out = reference.position_scale(x=x, position=position, scale=0.3, period=4, offset=offset)
    for row, column in ((r, c) for r in range(2) for c in range(5)):
        steps = (max(int(position[row, column]), 0) + offset) // 4
        assert_close("out", out[row, column], x[row, column].double() * (1 + 0.3 * math.log(1 + steps)))
    half = reference.position_scale(x=x.bfloat16(), position=position, scale=0.3, period=4, offset=offset)
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize("count", [1, 2, 5])
def test_sum_is_the_sum(count: int) -> None:
    xs = [torch.randn(2, 3, 6) for _ in range(count)]
    exact = torch.stack(xs).double().sum(0)
    assert_close("plain", reference.sum_of(xs=xs), exact)
    assert_close("mean", reference.sum_of(xs=xs, scale=1 / count), exact / count)
