"""References and torch kernels under float16 autocast on a CPU: what products leave narrower joins what is wide."""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from llmc.kernels.cache.reference import kv_window_append
from llmc.kernels.latent_attention import absorbed, reference
from llmc.kernels.moe.reference import experts
from llmc.kernels.tolerance import TOLERANCE, assert_close

POSITION = torch.tensor([[0, 1, -1, 2]])


def picked_experts() -> Tensor:
    x, inside, outside = torch.randn(4, 8), torch.randn(3, 6, 8), torch.randn(3, 8, 6)
    share = functional.linear(x, torch.randn(2, 8))
    return experts(x=x, weights=share, experts=torch.tensor([[0, 2]] * 4), up_proj=inside, down_proj=outside)


def latent_attention(latent_attend_cached: Callable[..., Tensor]) -> Tensor:
    latents, k_ropes = torch.randn(1, 1, 4, 5), torch.randn(1, 1, 4, 2)
    q = {"q_nope": torch.randn(1, 4, 6), "q_rope": torch.randn(1, 4, 4), "kv_up": torch.randn(10, 5)}
    at = {"position": POSITION, "key_position": POSITION}
    dims = {"nope_head_dim": 3, "rope_head_dim": 2, "v_head_dim": 2}
    return latent_attend_cached(**q, **at, **dims, latents=latents, k_ropes=k_ropes)


def ring() -> Tensor:
    """Keys of a projection beside those of a cache in float32."""
    x, weight = torch.randn(1, 4, 6), torch.randn(6, 6)
    state = (torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3))
    new = functional.linear(x, weight)
    position, lengths = torch.tensor([[3, 4, 5, 6]]), torch.tensor([3])
    (keys, *_), seen, _, _ = kv_window_append(
        state=state, k=new, v=new, position=position, lengths=lengths, heads=2, key_dim=3, value_dim=3, window=3
    )
    assert seen.dtype == torch.float32
    return torch.cat((keys, seen), dim=2)


@pytest.mark.parametrize(
    "run",
    [
        picked_experts,
        ring,
        lambda: latent_attention(reference.latent_attend_cached),
        lambda: latent_attention(absorbed.latent_attend_cached),
    ],
    ids=["experts", "ring", "latent", "absorbed"],
)
def test_halves_of_products(run: Callable[[], Tensor]) -> None:
    torch.manual_seed(0)
    expected = run()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.float16):
        found = run()
    assert_close("out", found, expected, tolerance=4 * TOLERANCE[torch.float16])
