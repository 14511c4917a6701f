"""Attention that drops weights in training, in Triton: the mask that plain torch makes, forward and backward."""

# pyright: basic
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from llmc.kernels.attention import reference
from llmc.kernels.attention.dropout import dropped, kept
from llmc.kernels.attention.fields import Attention
from llmc.kernels.attention.triton_attention import attention
from llmc.kernels.gpu.tuning import forced
from llmc.kernels.record import called_with
from llmc.kernels.sampling.reference import random_word
from llmc.kernels.tolerance import assert_close

from .gpu import DEVICE

TOKENS, HEADS, KEY_HEADS, SIZE = 37, 4, 2, 16


def drawn(state: int) -> Tensor:
    """The seed that the next call in training takes, after `torch.manual_seed(state)`."""
    torch.manual_seed(state)
    seed = torch.randint(2**63 - 1, (1,), dtype=torch.int64, device=DEVICE)
    torch.manual_seed(state)
    return seed


@called_with(Attention)
def exact(given: Attention) -> Tensor:
    """The reference, but for the mask, which is that of the next seed."""
    seed, cached = drawn(7), given.cached()
    weights = reference.attention_weights.of(cached)
    return reference.weighted_values(
        weights=dropped(weights=weights, seed=seed, dropout=given.dropout), values=cached.values
    )


def gradients(
    function: Callable[..., Tensor], dtype: torch.dtype, dropout: float, fields: dict[str, object]
) -> dict[str, Tensor]:
    """The output, and the gradients of every float operand. Keys are shared by heads, rows padded."""
    make = torch.Generator().manual_seed(3)
    shapes = {
        "q": (2, TOKENS, HEADS * SIZE), "k": (2, TOKENS, KEY_HEADS * SIZE), "v": (2, TOKENS, KEY_HEADS * SIZE),
        "bias": (HEADS, TOKENS, TOKENS), "distance_bias": (HEADS, 9), "sink": (HEADS,),
    }  # fmt: skip
    leaves = {n: torch.randn(*s, generator=make).to(DEVICE, dtype).requires_grad_() for n, s in shapes.items()}
    position = (torch.arange(TOKENS)[None] - torch.tensor([[0], [5]])).clamp(min=-1).to(DEVICE)
    drawn(7)
    out = function(**leaves, position=position, head_dim=SIZE, dropout=dropout, training=True, **fields)
    grad = torch.randn(out.shape, generator=make).to(DEVICE, dtype)
    return {"out": out, **dict(zip(leaves, torch.autograd.grad(out, list(leaves.values()), grad), strict=True))}


@pytest.mark.parametrize("dropout", [0.0, 0.3, 0.97])
def test_the_mask_is_the_same_in_both_passes_whatever_their_blocks(dropout: float) -> None:
    fields = {"window": 20, "softcap": 5.0, "alibi": True} if dropout == 0.3 else {}
    blocks = {"BLOCK_M": 32, "num_warps": 4, "num_stages": 1}
    with (
        forced("attention_forward", {**blocks, "BLOCK_N": 16, "DESCRIBED": 0}),
        forced("attention_backward_queries", {**blocks, "BLOCK_N": 64}),
        forced("attention_backward_keys", {**blocks, "BLOCK_N": 32}),
    ):
        found = gradients(attention, torch.float32, dropout, fields)
    for name, wanted in gradients(exact, torch.float64, dropout, fields).items():
        assert_close(f"{name}, dropout {dropout}", found[name], wanted)


def test_everything_may_be_dropped_and_nothing_is_outside_training() -> None:
    x = torch.randn(1, 5, SIZE, device=DEVICE)
    given = {"q": x, "k": x, "v": x, "position": torch.arange(5, device=DEVICE)[None], "head_dim": SIZE}
    assert torch.equal(attention(**given, dropout=1.0, training=True), torch.zeros_like(x))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert torch.equal(attention(**given, dropout=0.5), attention(**given))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_seed_is_torchs() -> None:
    x = torch.randn(1, 9, SIZE, device=DEVICE)
    position = torch.arange(9, device=DEVICE)[None]

    def run(state: int) -> Tensor:
        torch.manual_seed(state)
        return attention(q=x, k=x, v=x, position=position, head_dim=SIZE, dropout=0.5, training=True)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_a_mask_is_philox_at_the_pairs_place() -> None:
    seed = 2**40 + 12345
    mask = kept(seed=torch.tensor([seed]), shape=(1, 1, 1, 4096), dropout=0.3)
    words = [random_word(seed, place) >> 8 >= round(0.3 * 2**24) for place in range(64)]
    assert mask.flatten()[:64].tolist() == words
    assert abs(float(mask.float().mean()) - 0.7) < 0.03
    more = kept(seed=torch.tensor([seed]), shape=(2, 2, 2, 4096), dropout=0.3)
    assert torch.equal(more[:1, :1, :1], mask)
    assert len({tuple(row.tolist()) for row in more.flatten(0, 2)}) == 8
