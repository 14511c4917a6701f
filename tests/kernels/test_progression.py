"""Numbers that follow from sizes alone, against their definition."""

from __future__ import annotations

import torch

from llmc.kernels.progression.reference import geometric


def test_geometric() -> None:
    for dtype, wide in (
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        out = geometric(like=torch.zeros(2, 3, dtype=dtype), size=5, start=-0.7, ratio=0.3)
        expected = torch.tensor([-0.7 * 0.3**i for i in range(5)], dtype=torch.float64)
        assert out.dtype == wide
        assert (out - expected).abs().max() < torch.finfo(wide).eps
    assert torch.equal(geometric(like=torch.zeros(1), size=1, start=2.0, ratio=9.0), torch.tensor([2.0]))
