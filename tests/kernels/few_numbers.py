"""Error ratios of few numbers: they may be small differences of large terms."""

from __future__ import annotations

import torch
from torch import Tensor

from llmc.kernels.tolerance import TOLERANCE, assert_close

FEW = 8


def assert_few_close(name: str, actual: Tensor, expected: Tensor, *, tolerance: float | None = None) -> None:
    """As `assert_close`; beside fewer than 8 numbers stand ones, for the size of the terms that they are made of."""
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    bound = TOLERANCE[actual.dtype] if tolerance is None else tolerance
    if 0 < actual.numel() < FEW:
        actual, expected = (torch.cat([x.detach().cpu().double().flatten(), torch.ones(4)]) for x in (actual, expected))
    assert_close(name, actual, expected, tolerance=bound)
