"""RoPE against transformers: every frequency scaling, both layouts, partial rotation."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import inspect
from typing import TypedDict, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.gptj import modeling_gptj
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from llmc.kernels.rope.fields import RopeScaling
from llmc.kernels.rope.reference import rope, rope_apply, rope_table
from llmc.kernels.tolerance import assert_close

D = 20
SHORT, LONG = [1.0 + 0.1 * i for i in range(D // 2)], [2.0 + 0.5 * i for i in range(D // 2)]


class Values(TypedDict, total=False):
    """The arguments that scalings take."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_seq_len: int
    attention_factor: float
    beta_fast: float
    beta_slow: float
    truncate: bool
    mscale: float
    mscale_all_dim: float
    short_factor: list[float]
    long_factor: list[float]
    rotary_fraction: float


# Our arguments, and transformers' spelling where it differs.
SCALINGS: list[tuple[RopeScaling, Values]] = [
    ("none", {}),
    ("linear", {"factor": 4.0}),
    ("dynamic", {"factor": 4.0}),
    ("llama3", {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_seq_len": 32}),
    ("yarn", {"factor": 4.0, "original_max_seq_len": 32}),
    ("yarn", {"factor": 40.0, "original_max_seq_len": 32, "mscale": 1.0, "mscale_all_dim": 0.8, "truncate": False}),
    ("yarn", {"factor": 4.0, "original_max_seq_len": 32, "attention_factor": 1.5, "beta_fast": 16.0, "beta_slow": 2.0}),
    ("longrope", {"factor": 4.0, "original_max_seq_len": 32, "short_factor": SHORT, "long_factor": LONG}),
    ("longrope", {"original_max_seq_len": 16, "short_factor": SHORT, "long_factor": LONG, "attention_factor": 1.2}),
    ("longrope", {"original_max_seq_len": 16, "short_factor": SHORT, "long_factor": LONG}),
]


def _config(scaling: str, values: Values, theta: float) -> LlamaConfig:
    names = {
        "original_max_seq_len": "original_max_position_embeddings",
        "rotary_fraction": "partial_rotary_factor",
    }
    parameters = {names.get(name, name): value for name, value in cast("dict[str, object]", values).items()}
    parameters |= {"rope_type": "default" if scaling == "none" else scaling, "rope_theta": theta}
    return LlamaConfig(
        hidden_size=3 * D, num_attention_heads=3, head_dim=D, max_position_embeddings=64, rope_parameters=parameters
    )


@pytest.mark.parametrize("length", [7, 100])
@pytest.mark.parametrize(("scaling", "values"), SCALINGS)
def test_tables_are_those_of_transformers(scaling: RopeScaling, values: Values, length: int) -> None:
    position = torch.arange(length)[None]
    config = _config(scaling, values, 5000.0)
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), position)
    table = rope_table(position=position, rotary_dim=D, theta=5000.0, scaling=scaling, max_seq_len=64, **values)
    half = D // 2
    assert table.dtype == torch.float32
    assert_close("cos", table[..., :half], cos[..., :half], tolerance=1e-6)
    assert_close("sin", table[..., half:], sin[..., :half], tolerance=1e-6)


@pytest.mark.parametrize("length", [40, 100])
@pytest.mark.parametrize(("scaling", "values"), SCALINGS[1:])
def test_frequencies_are_those_of_transformers(scaling: RopeScaling, values: Values, length: int) -> None:
    frequency, gain = ROPE_INIT_FUNCTIONS[scaling](_config(scaling, values, 5000.0), "cpu", seq_len=length)
    position = torch.arange(length)[None]
    table = rope_table(position=position, rotary_dim=D, theta=5000.0, scaling=scaling, max_seq_len=64, **values)
    angle = position[..., None].float() * frequency
    assert_close("table", table, torch.cat((angle.cos(), angle.sin()), -1) * gain, tolerance=1e-6)


def test_proportional_frequencies_are_those_of_transformers() -> None:
    values: Values = {"rotary_fraction": 0.5}
    frequency, _ = ROPE_INIT_FUNCTIONS["proportional"](_config("proportional", values, 10000.0))
    position = torch.arange(9)[None]
    angle = position[..., None].float() * frequency
    table = rope_table(position=position, rotary_dim=D, scaling="proportional", rotary_fraction=0.5)
    assert_close("table", table, torch.cat((angle.cos(), angle.sin()), -1), tolerance=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_layout_is_llamas(dtype: torch.dtype) -> None:
    position = torch.arange(3, 10)[None].expand(2, 7)
    x = torch.randn(2, 7, 3 * D).to(dtype)
    cos, sin = LlamaRotaryEmbedding(_config("none", {}, 10000.0))(x, position)
    heads = x.view(2, 7, 3, D).transpose(1, 2)
    expected = apply_rotary_pos_emb(heads, heads, cos, sin)[0].transpose(1, 2).flatten(-2)
    assert_close("out", rope(x=x, position=position, head_dim=D), expected)


def test_interleaved_partial_layout_is_gptjs() -> None:
    position = torch.arange(7)[None]
    x, rotary = torch.randn(1, 7, 3 * D), 12
    table = modeling_gptj.create_sinusoidal_positions(7, rotary)[None]
    sin, cos = table.chunk(2, dim=-1)
    heads = x.view(1, 7, 3, D)
    turned = modeling_gptj.apply_rotary_pos_emb(heads[..., :rotary], sin, cos)
    expected = torch.cat((turned, heads[..., rotary:]), -1).flatten(-2)
    out = rope(x=x, position=position, head_dim=D, rotary_dim=rotary, layout="interleaved")
    assert_close("out", out, expected)


@settings(max_examples=20, deadline=None)
@given(
    shift=st.integers(0, 500),
    rotary=st.sampled_from([2, 8, 20]),
    layout=st.sampled_from(["half", "interleaved"]),
)
def test_scores_depend_on_the_distance_only(shift: int, rotary: int, layout: str) -> None:
    assert layout in ("half", "interleaved")
    q, k = torch.randn(1, 1, D, dtype=torch.float64), torch.randn(1, 1, D, dtype=torch.float64)

    def score(query: int, key: int) -> Tensor:
        turned = [
            rope(x=x, position=torch.tensor([[p]]), head_dim=D, rotary_dim=rotary, layout=layout)
            for x, p in ((q, query), (k, key))
        ]
        return (turned[0] * turned[1]).sum()

    assert torch.allclose(score(9, 4), score(9 + shift, 4 + shift), atol=1e-4)


@pytest.mark.parametrize(("scaling", "values"), SCALINGS)
def test_a_padded_row_equals_the_row_alone(scaling: RopeScaling, values: Values) -> None:
    left = torch.cat((torch.full((40,), -1), torch.arange(70)))[None]
    short = torch.cat((torch.arange(9), torch.full((101,), -1)))[None]
    both = rope_table(position=torch.cat((left, short)), rotary_dim=D, scaling=scaling, max_seq_len=64, **values)
    alone = rope_table(position=torch.arange(9)[None], rotary_dim=D, scaling=scaling, max_seq_len=64, **values)
    assert torch.equal(both[1, :9], alone[0])
    alone = rope_table(position=torch.arange(70)[None], rotary_dim=D, scaling=scaling, max_seq_len=64, **values)
    assert torch.equal(both[0, 40:], alone[0])


def test_missing_values_are_named() -> None:
    position = torch.arange(3)[None]
    with pytest.raises(ValueError, match="'llama3' needs original_max_seq_len"):
        rope_table(position=position, rotary_dim=D, scaling="llama3", factor=8.0)
    with pytest.raises(ValueError, match="'longrope' needs short_factor"):
        rope_table(position=position, rotary_dim=D, scaling="longrope", original_max_seq_len=8, factor=2.0)


def test_rope_takes_the_fields_of_both_halves_with_their_defaults() -> None:
    whole = inspect.signature(rope).parameters
    for half in (rope_table, rope_apply):
        for name, parameter in inspect.signature(half).parameters.items():
            if name not in ("table", "rotary_dim"):
                assert whole[name].default == parameter.default, name


def test_gradients() -> None:
    x = torch.randn(1, 3, 2 * 6, dtype=torch.float64, requires_grad=True)

    def half(x: Tensor) -> Tensor:
        return rope(x=x, position=torch.tensor([[-1, 0, 5]]), head_dim=6, rotary_dim=4)

    def interleaved(x: Tensor) -> Tensor:
        return rope(x=x, position=torch.tensor([[-1, 0, 5]]), head_dim=6, layout="interleaved")

    assert torch.autograd.gradcheck(half, (x,))
    assert torch.autograd.gradcheck(interleaved, (x,))
