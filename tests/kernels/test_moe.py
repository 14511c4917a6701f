"""The references of routers and experts against a loop over tokens, and latent attention against its absorbed form."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from llmc.kernels.latent_attention.absorbed import latent_attend_cached as absorbed
from llmc.kernels.latent_attention.reference import latent_attend_cached
from llmc.kernels.moe.fields import Packing
from llmc.kernels.moe.reference import experts, router, router_loss


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.default_generator)


@pytest.fixture(autouse=True)
def _seed() -> None:  # pyright: ignore[reportUnusedFunction]
    torch.default_generator.manual_seed(0)


@pytest.mark.parametrize("packing", ["separate", "halves", "interleaved"])
@pytest.mark.parametrize("layout", ["out_in", "in_out"])
@pytest.mark.parametrize("weighs", ["output", "input"])
@pytest.mark.parametrize("limit", [None, 0.4])
def test_experts_equal_a_loop_over_tokens(packing: Packing, layout: str, weighs: str, limit: float | None) -> None:
    width, inner, count, tokens, chosen = 7, 5, 6, 11, 3
    gate, up, down = random(count, inner, width), random(count, inner, width), random(count, width, inner)
    gate_bias, up_bias, down_bias = random(count, inner), random(count, inner), random(count, width)
    x, weights = random(1, tokens, width), random(1, tokens, chosen).sigmoid()
    picked = torch.stack([torch.randperm(count - 1)[:chosen] for _ in range(tokens)])[None]  # the last is never picked
    stored: dict[str, Tensor] = {"gate_proj": gate, "up_proj": up}
    biases: dict[str, Tensor] = {"gate_proj_bias": gate_bias, "up_proj_bias": up_bias}
    if packing == "halves":
        stored = {"gate_up_proj": torch.cat((gate, up), 1)}
        biases = {"gate_up_proj_bias": torch.cat((gate_bias, up_bias), 1)}
    elif packing == "interleaved":
        stored = {"gate_up_proj": torch.stack((gate, up), 2).flatten(1, 2)}
        biases = {"gate_up_proj_bias": torch.stack((gate_bias, up_bias), 2).flatten(1, 2)}
    stored["down_proj"] = down.clone()
    for weight in stored.values():
        weight[-1] = torch.nan
    if layout == "in_out":
        stored = {name: weight.transpose(1, 2).contiguous() for name, weight in stored.items()}
    found = experts(
        x=x, weights=weights, experts=picked, **stored, **biases, down_proj_bias=down_bias, activation="gelu_quick",
        packing=packing, layout=layout, limit=limit, up_offset=1.0, weighs=weighs,  # type: ignore[arg-type]
    )  # fmt: skip
    for token in range(tokens):
        total = torch.zeros(width, dtype=torch.float64)
        for index, weight in zip(picked[0, token].tolist(), weights[0, token], strict=True):
            value = x[0, token] * weight if weighs == "input" else x[0, token]
            g, u = gate[index] @ value + gate_bias[index], up[index] @ value + up_bias[index]
            if limit is not None:
                g, u = g.clamp(max=limit), u.clamp(-limit, limit)
            out = down[index] @ (g * torch.sigmoid(1.702 * g) * (u + 1)) + down_bias[index]
            total += out if weighs == "input" else out * weight
        assert torch.allclose(found[0, token], total, atol=1e-12)


def test_experts_are_differentiable() -> None:
    arguments = [random(2, 3, 4), random(2, 3, 2), random(5, 3, 4), random(5, 3, 4), random(5, 4, 3)]
    for argument in arguments:
        argument.requires_grad_()
    picked = torch.randint(0, 5, (2, 3, 2))

    def run(x: Tensor, weights: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        return experts(x=x, weights=weights, experts=picked, gate_proj=gate, up_proj=up, down_proj=down)

    assert torch.autograd.gradcheck(run, arguments)


def test_no_tokens() -> None:
    none = torch.zeros(2, 0, 3, dtype=torch.int64)
    up, down = random(5, 3, 4), random(5, 4, 3)
    out = experts(x=random(2, 0, 4), weights=random(2, 0, 3), experts=none, up_proj=up, down_proj=down)
    assert out.shape == (2, 0, 4)


def test_scores_and_picks() -> None:
    x, weight = random(2, 3, 4), random(6, 4)
    logits = x @ weight.T
    for score, value in {
        "softmax": logits.softmax(-1),
        "sigmoid": logits.sigmoid(),
        "sqrtsoftplus": functional.softplus(logits).sqrt(),
    }.items():
        weights, picked, given = router(x=x, weight=weight, top_k=2, score=score, scale=1.5)  # type: ignore[arg-type]
        best = value.topk(2)
        assert torch.equal(picked, best.indices)
        assert torch.allclose(weights, 1.5 * best.values)
        assert torch.allclose(given, logits)
        shares = router(x=x, weight=weight, top_k=2, score=score, normalise=True)[0]  # type: ignore[arg-type]
        assert torch.allclose(shares.sum(-1), torch.ones(2, 3, dtype=torch.float64))
    after = router(x=x, weight=weight, top_k=2, score_over="chosen")[0]
    assert torch.allclose(after, logits.topk(2).values.softmax(-1))


def test_a_correction_moves_picks_and_not_weights() -> None:
    x, weight = random(1, 5, 4), random(6, 4)
    correction = torch.tensor([0.0, 0, 0, 0, 0, 9], dtype=torch.float64)
    weights, picked, logits = router(x=x, weight=weight, top_k=1, score="sigmoid", correction=correction)
    assert (picked == 5).all()
    assert torch.allclose(weights, logits[..., 5:].sigmoid())


@pytest.mark.parametrize("group_score", ["max", "top2_sum"])
def test_picks_stay_in_the_best_groups(group_score: str) -> None:
    x, weight = random(1, 50, 4), random(12, 4)
    _, picked, logits = router(
        x=x, weight=weight, top_k=3, score="sigmoid", num_groups=4, top_groups=2, group_score=group_score,  # type: ignore[arg-type]
    )  # fmt: skip
    grouped = logits.sigmoid().unflatten(-1, (4, 3))
    rank = grouped.amax(-1) if group_score == "max" else grouped.topk(2).values.sum(-1)
    allowed = rank.topk(2).indices
    assert ((picked // 3)[..., None] == allowed[..., None, :]).any(-1).all()
    inside = torch.full_like(logits, -torch.inf).unflatten(-1, (4, 3))
    inside = inside.scatter(2, allowed[..., None].expand(-1, -1, -1, 3), 0.0).flatten(-2)
    assert torch.equal(picked, (logits + inside).topk(3).indices)


def test_even_use_has_the_least_loss() -> None:
    position = torch.arange(6)[None]
    even, uneven = torch.eye(6).roll(1, 0)[None] * 0, torch.eye(6)[None, :, :] * 0
    uneven[..., 0] = 5.0
    picks = torch.arange(6)[None, :, None]
    balance, z, use = router_loss(logits=[even], experts=[picks], position=position)
    assert torch.allclose(balance, torch.ones(1))
    assert torch.allclose(use, torch.full((1, 6), 1 / 6))
    assert torch.allclose(z, torch.tensor([6.0]).log().square())
    assert router_loss(logits=[uneven], experts=[picks * 0], position=position)[0] > 5


@pytest.mark.parametrize(("tokens", "cached"), [(1, 9), (4, 13), (1, 1)])
def test_the_absorbed_form_equals_the_definition(tokens: int, cached: int) -> None:
    batch, heads, nope, rope, value, rank = 3, 4, 6, 2, 5, 7
    position = torch.arange(cached - tokens, cached).repeat(batch, 1)
    key_position = torch.arange(cached).repeat(batch, 1)
    position[1, 0], key_position[2, : cached // 2] = -1, -1
    arguments: dict[str, Tensor] = {
        "q_nope": random(batch, tokens, heads * nope), "q_rope": random(batch, tokens, heads * rope),
        "latents": random(batch, 1, cached, rank), "k_ropes": random(batch, 1, cached, rope),
        "kv_up": random(heads * (nope + value), rank), "position": position, "key_position": key_position,
    }  # fmt: skip
    for scale in (None, 0.3):
        expected, found = (
            form(**arguments, nope_head_dim=nope, rope_head_dim=rope, v_head_dim=value, scale=scale)
            for form in (latent_attend_cached, absorbed)
        )
        assert torch.allclose(found, expected, atol=1e-12)
