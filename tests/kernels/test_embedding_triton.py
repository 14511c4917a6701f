"""The lookup in Triton equals the reference, padding, offsets and rounded scales included."""

# pyright: basic
from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from llmc.kernels.embedding.reference import embedding as expected
from llmc.kernels.embedding.triton_embedding import embedding

from .gpu import DEVICE, dtypes


@dtypes
@pytest.mark.parametrize(("offset", "scale"), [(0, 1.0), (2, 33.3)])
@pytest.mark.parametrize("width", [5, 1030])
def test_equals_the_reference(dtype: torch.dtype, offset: int, scale: float, width: int) -> None:
    weight = torch.randn(9, width + 3)[:, :width].to(DEVICE, dtype)
    ids = torch.tensor([[-1, 0, 6], [3, -5, 1]], device=DEVICE)
    options = {"ids": ids, "weight": weight, "offset": offset, "scale": scale}
    assert torch.equal(embedding(**options), expected(**options))
    assert embedding(**{**options, "ids": ids[:, :0]}).shape == (2, 0, width)


def test_a_table_that_learns_is_torchs() -> None:
    weight = torch.randn(4, 3, device=DEVICE, requires_grad=True)
    embedding(ids=torch.tensor([[1, 1]], device=DEVICE), weight=weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad[:, 0].tolist() == [0.0, 2.0, 0.0, 0.0]
