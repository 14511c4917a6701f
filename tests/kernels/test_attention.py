"""Attention against a float64 oracle written as loops, against transformers' ALiBi, and reference against SDPA."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from typing import TypedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.t5.modeling_t5 import T5Attention

from llmc.kernels.attention import reference, sdpa
from llmc.kernels.attention.fields import MaskKind
from llmc.kernels.kernel import Request
from llmc.kernels.tolerance import assert_close

B, T, H, HKV, D, DV = 3, 7, 6, 3, 20, 12
PADDED = torch.tensor(
    [
        [0, 1, 2, 3, 4, 5, 6],
        [-1, -1, -1, 0, 1, 2, 3],
        [0, 1, 2, 3, 4, -1, -1],
    ]
)
WHOLE = torch.arange(T).expand(B, T)


class Call(TypedDict):
    """The tensors of `attention`."""

    q: Tensor
    k: Tensor
    v: Tensor
    position: Tensor


class Cached(TypedDict):
    """What a cache gives to `attend_cached`."""

    keys: Tensor
    values: Tensor
    key_position: Tensor


class Fields(TypedDict, total=False):
    """The optional arguments of attention that the tests vary."""

    mask: MaskKind
    window: int | None
    chunk: int | None
    scale: float | None
    softcap: float | None
    alibi: bool
    bias: Tensor | None
    sink: Tensor | None


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(B, T, width).to(dtype) for width in (H * D, HKV * D, HKV * DV))
    return q, k, v


def oracle(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: Tensor,
    mask: MaskKind = "causal",
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: bool = False,
    bias: Tensor | None = None,
    sink: Tensor | None = None,
) -> Tensor:
    """One query and one head at a time, in float64."""
    out = torch.zeros(B, T, H, DV, dtype=torch.float64)
    heads = q.double().view(B, T, H, D), k.double().view(B, T, HKV, D), v.double().view(B, T, HKV, DV)
    slopes = build_alibi_tensor(torch.ones(1, 2), H, torch.float64)[:, 0, 1]
    for b in range(B):
        for i in range(T):
            p = int(position[b, i])
            seen = [
                j
                for j in range(T)
                if p >= 0
                and (r := int(position[b, j])) >= 0
                and (mask == "bidirectional" or r <= p)
                and (window is None or abs(p - r) < window)
                and (chunk is None or p // chunk == r // chunk)
            ]
            if not seen:
                continue
            distance = (position[b, seen] - p).abs().double()
            for h in range(H):
                g = h // (H // HKV)
                score = heads[1][b, seen, g] @ heads[0][b, i, h] * (1 / math.sqrt(D) if scale is None else scale)
                if softcap is not None:
                    score = softcap * torch.tanh(score / softcap)
                if alibi:
                    score = score - slopes[h] * distance
                if bias is not None:
                    score = score + bias[h if bias.shape[0] > 1 else 0, i, seen].double()
                weight = score.exp()
                total = weight.sum() + (0.0 if sink is None else sink[h].double().exp())
                out[b, i, h] = (weight / total) @ heads[2][b, seen, g]
    return out.flatten(-2)


CASES: list[Fields] = [
    {},
    {"window": 3},
    {"window": 1},
    {"chunk": 3},
    {"chunk": 1},
    {"chunk": 3, "window": 2},
    {"chunk": 2, "mask": "bidirectional"},
    {"mask": "bidirectional"},
    {"mask": "bidirectional", "window": 2},
    {"scale": 0.5},
    {"alibi": True},
    {"alibi": True, "mask": "bidirectional"},
    {"bias": torch.linspace(-2, 2, H * T * T).view(H, T, T)},
    {"bias": torch.linspace(-2, 2, T * T).view(1, T, T), "alibi": True, "window": 4},
    {"softcap": 2.0},
    {"sink": torch.linspace(-1, 1, H)},
    {"sink": torch.linspace(-1, 1, H), "window": 3, "softcap": 5.0},
]


@pytest.mark.parametrize("position", [WHOLE, PADDED], ids=["whole", "padded"])
@pytest.mark.parametrize("fields", CASES, ids=lambda f: "-".join(f) or "plain")
def test_attention_is_the_oracles(fields: Fields, position: Tensor) -> None:
    q, k, v = inputs()
    expected = oracle(q, k, v, position, **fields)
    out = reference.attention(q=q, k=k, v=v, position=position, head_dim=D, v_head_dim=DV, **fields)
    assert_close("reference", out, expected)
    if "softcap" not in fields and "sink" not in fields:
        out = sdpa.attention(q=q, k=k, v=v, position=position, head_dim=D, v_head_dim=DV, **fields)
        assert_close("sdpa", out, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    q, k, v = inputs(dtype)
    expected = oracle(q, k, v, PADDED)
    for module in (reference, sdpa):
        out = module.attention(q=q, k=k, v=v, position=PADDED, head_dim=D, v_head_dim=DV)
        assert out.dtype == dtype
        assert_close(module.__name__, out, expected)


@pytest.mark.parametrize("heads", [1, 2, 3, 6, 8, 12, 20, 25])
def test_alibi_slopes_are_blooms(heads: int) -> None:
    expected = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1]
    assert_close("slopes", reference.alibi_slopes(heads=heads), expected)


@pytest.mark.parametrize("module", [reference, sdpa])
def test_a_row_that_sees_nothing_gives_zeros_and_finite_gradients(module: object) -> None:
    attention = sdpa.attention if module is sdpa else reference.attention
    q, k, v = (x.requires_grad_() for x in inputs())
    position = PADDED.clone()
    position[1] = -1
    out = attention(q=q, k=k, v=v, position=position, head_dim=D, v_head_dim=DV)
    assert torch.equal(out[position < 0], torch.zeros_like(out[position < 0]))
    out.square().sum().backward()
    for name, x in (("q", q), ("k", k), ("v", v)):
        assert x.grad is not None
        assert x.grad.isfinite().all(), name
        assert x.grad[position < 0].abs().max() == 0, name


@pytest.mark.parametrize("module", [reference, sdpa])
def test_padding_on_either_side_equals_the_row_alone(module: object) -> None:
    attention = sdpa.attention if module is sdpa else reference.attention
    q, k, v = inputs()
    out = attention(q=q, k=k, v=v, position=PADDED, head_dim=D, v_head_dim=DV)
    for row in range(B):
        real = PADDED[row] >= 0
        alone = attention(
            q=q[row, real][None],
            k=k[row, real][None],
            v=v[row, real][None],
            position=PADDED[row, real][None],
            head_dim=D,
            v_head_dim=DV,
        )
        assert_close(f"row {row}", out[row, real][None], alone)


@settings(max_examples=20, deadline=None)
@given(
    tokens=st.integers(1, 5),
    past=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    groups=st.integers(1, 3),
    window=st.sampled_from([None, 1, 3, 50]),
    chunk=st.sampled_from([None, 1, 3, 50]),
    mask=st.sampled_from(["causal", "bidirectional"]),
)
def test_sdpa_over_a_cache_is_the_reference(
    tokens: int, past: list[int], groups: int, window: int | None, chunk: int | None, mask: MaskKind
) -> None:
    lengths = torch.tensor(past)[:, None]
    size = max(past) + tokens
    order = torch.arange(size)
    key_position = torch.where(order < lengths + tokens, order, -1)
    position = lengths + torch.arange(tokens)
    q = torch.randn(len(past), tokens, 2 * groups * D)
    keys, values = torch.randn(len(past), 2, size, D), torch.randn(len(past), 2, size, D)
    cached = Cached(keys=keys, values=values, key_position=key_position)
    fields: Fields = {"mask": mask, "window": window, "chunk": chunk}
    expected = reference.attend_cached(q=q, **cached, position=position, head_dim=D, **fields)
    assert_close("out", sdpa.attend_cached(q=q, **cached, position=position, head_dim=D, **fields), expected)


def test_sdpa_builds_no_mask_where_none_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> Tensor:
        raise AssertionError("a mask was built")

    monkeypatch.setattr(sdpa, "visible_keys", refuse)
    q, k, v = inputs()
    sdpa.attention(q=q, k=k, v=v, position=WHOLE, head_dim=D, v_head_dim=DV)
    sdpa.attention(q=q, k=k, v=v, position=WHOLE, head_dim=D, v_head_dim=DV, window=T)
    sdpa.attention(q=q, k=k, v=v, position=WHOLE, head_dim=D, v_head_dim=DV, chunk=T)
    sdpa.attention(q=q, k=k, v=v, position=WHOLE, head_dim=D, v_head_dim=DV, mask="bidirectional")
    one = Cached(keys=torch.randn(B, HKV, T, D), values=torch.randn(B, HKV, T, DV), key_position=WHOLE)
    sdpa.attend_cached(q=q[:, -1:], position=WHOLE[:, -1:], head_dim=D, v_head_dim=DV, **one)
    with pytest.raises(AssertionError, match="a mask was built"):
        sdpa.attention(q=q, k=k, v=v, position=PADDED, head_dim=D, v_head_dim=DV)
    with pytest.raises(AssertionError, match="a mask was built"):
        sdpa.attend_cached(q=q[:, -1:], position=WHOLE[:, -1:], head_dim=D, v_head_dim=DV, window=3, **one)
    with pytest.raises(AssertionError, match="a mask was built"):
        sdpa.attention(q=q, k=k, v=v, position=WHOLE, head_dim=D, v_head_dim=DV, chunk=T - 1)


def test_dropout_acts_in_training_only() -> None:
    q, k, v = inputs()
    for module in (reference, sdpa):
        call = Call(q=q, k=k, v=v, position=WHOLE)
        plain = module.attention(**call, head_dim=D, v_head_dim=DV)
        assert torch.equal(module.attention(**call, head_dim=D, v_head_dim=DV, dropout=0.5), plain)
        dropped = module.attention(**call, head_dim=D, v_head_dim=DV, dropout=0.5, training=True)
        assert not torch.equal(dropped, plain)


@pytest.mark.parametrize(
    "fields",
    [{}, {"window": 2, "softcap": 3.0}, {"alibi": True, "mask": "bidirectional"}],
    ids=["plain", "window-softcap", "alibi"],
)
def test_gradients(fields: Fields) -> None:
    position = torch.tensor([[0, 1, 2], [-1, 0, 1]])
    q, k, v, sink, bias = (
        torch.randn(*s, dtype=torch.float64, requires_grad=True)
        for s in ((2, 3, 2 * 4), (2, 3, 4), (2, 3, 3), (2,), (2, 3, 3))
    )

    def attend(q: Tensor, k: Tensor, v: Tensor, sink: Tensor, bias: Tensor) -> Tensor:
        both: Fields = {**fields, "sink": sink, "bias": bias}
        return reference.attention(q=q, k=k, v=v, position=position, head_dim=4, v_head_dim=3, **both)

    assert torch.autograd.gradcheck(attend, (q, k, v, sink, bias))


def _request(dtype: str = "float32", *operands: str, **fields: object) -> Request:
    shapes: dict[str, tuple[int | str, ...]] = {"q": ("B", "T", 120), **{name: (6,) for name in operands}}
    return Request(op="attention", fields=fields, shapes=shapes, dtype=dtype, device="cpu", phase="prefill")


def test_refusals_name_their_reason() -> None:
    assert sdpa.serves(_request()) is None
    assert sdpa.serves(_request("bfloat16", window=8, softcap=None, alibi=False)) is None
    assert sdpa.serves(_request(alibi=True)) is None
    assert "softcap" in str(sdpa.serves(_request(softcap=50.0)))
    assert "sink" in str(sdpa.serves(_request("float32", "sink")))
    assert "rounded to bfloat16" in str(sdpa.serves(_request("bfloat16", alibi=True)))
    assert "rounded to float16" in str(sdpa.serves(_request("float16", "bias")))
    q, k, v = inputs()
    with pytest.raises(ValueError, match="neither"):
        sdpa.attention(q=q, k=k, v=v, position=WHOLE, head_dim=D, v_head_dim=DV, softcap=1.0)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("buckets", "reach"), [(32, 128), (12, 19), (11, 23), (4, 5), (64, 200)])
def test_relative_bias_is_that_of_transformers(buckets: int, reach: int, bidirectional: bool) -> None:
    """Each distance, and those beyond the reach, in the same bucket; every bucket with a number of its own."""
    weight = torch.randn(buckets, 3)
    by_distance = reference.relative_bias(weight=weight, max_distance=reach, bidirectional=bidirectional)
    assert by_distance.shape == (3, 2 * reach + 1)
    position = torch.arange(3 * reach)[None]
    found = reference.bias_by_distance(distance_bias=by_distance, position=position, key_position=position)[0]
    distance = position - position.T
    bucket = T5Attention._relative_position_bucket(distance, bidirectional, buckets, reach)  # pyright: ignore[reportPrivateUsage]
    assert torch.equal(found, weight[bucket].permute(2, 0, 1))


@pytest.mark.parametrize("module", [reference, sdpa])
@pytest.mark.parametrize("mask", ["causal", "bidirectional"])
def test_distance_bias_is_added_to_the_scores(module: object, mask: MaskKind) -> None:
    by_distance = torch.randn(H, 2 * 3 + 1)
    call = {"q": torch.randn(B, T, H * D), "k": torch.randn(B, T, HKV * D), "v": torch.randn(B, T, HKV * DV)}
    bias = torch.stack([
        torch.stack([by_distance[:, 3 + max(-3, min(3, key - query))] for key in range(T)], dim=1) for query in range(T)
    ], dim=1)  # fmt: skip
    fields = {"head_dim": D, "v_head_dim": DV, "mask": mask, "position": PADDED}
    ours = module.attention(**call, **fields, distance_bias=by_distance)  # type: ignore[attr-defined]
    for row, tokens in enumerate((slice(0, 7), slice(3, 7), slice(0, 5))):
        size = tokens.stop - tokens.start
        alone = {name: x[row : row + 1, tokens] for name, x in call.items()}
        at = {**fields, "position": torch.arange(size)[None]}
        expected = reference.attention(**alone, **at, bias=bias[:, :size, :size])  # type: ignore[arg-type]
        assert_close(f"row {row}", ours[row, tokens], expected[0])


@pytest.mark.parametrize("module", [reference, sdpa])
def test_keys_of_another_axis(module: object) -> None:
    """As many keys as there are, each row those of its own that are no padding."""
    q, k, v = torch.randn(B, T, H * D), torch.randn(B, 4, HKV * D), torch.randn(B, 4, HKV * DV)
    at = torch.tensor([[0, 1, 2, 3], [-1, 0, 1, 2], [0, -1, -1, -1]])
    fields = {"head_dim": D, "v_head_dim": DV, "mask": "bidirectional"}
    out = module.attention(q=q, k=k, v=v, position=PADDED, key_position=at, **fields)  # type: ignore[attr-defined]
    for row in range(B):
        seen = at[row] >= 0
        other = {"key_position": at[row][seen][None], "position": PADDED[row : row + 1]}
        kept = {"q": q[row : row + 1], "k": k[row : row + 1, seen], "v": v[row : row + 1, seen]}
        alone = reference.attention(**kept, **other, **fields)  # type: ignore[arg-type]
        assert_close(f"row {row}", out[row], alone[0])
    assert_close("one key", out[2, 0, :DV], v[2, 0, :DV])
