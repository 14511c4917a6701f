"""How near a kernel must come to its reference: rms of the difference over rms of the reference, by dtype."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

TOLERANCE: Mapping[torch.dtype, float] = MappingProxyType(
    {torch.float64: 1e-9, torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
)


def error_ratio(actual: Tensor, expected: Tensor) -> float:
    """`rms(actual - expected) / rms(expected)` in float64; NaN where either holds a NaN.

    An expected tensor of zeros counts as one of rms 1.
    """
    wide, reference = actual.detach().double(), expected.detach().double()
    difference = (wide - reference).square().mean().sqrt() if wide.numel() else wide.new_zeros(())
    size = reference.square().mean().sqrt() if reference.numel() else wide.new_zeros(())
    return float(difference / size) if float(size) > 0.0 else float(difference)


def assert_close(name: str, actual: Tensor, expected: Tensor, *, tolerance: float | None = None) -> None:
    """Fails with the tensor's name unless the shapes agree and the error ratio is within the dtype's tolerance.

    The table is read at actual's dtype; `expected` may be wider. Raises AssertionError.
    """
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    bound = TOLERANCE[actual.dtype] if tolerance is None else tolerance
    ratio = error_ratio(actual, expected)
    assert ratio <= bound, f"{name}: error ratio {ratio:.2e} exceeds {bound:.0e} for {actual.dtype}"
