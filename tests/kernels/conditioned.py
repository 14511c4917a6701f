"""Nearness to a reference where rounding alone moves the numbers: the reference, moved by roundings, says how far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from llmc.kernels.tolerance import TOLERANCE, assert_close, error_ratio

MOVES = 4
"""How often the operands are moved, each time otherwise."""
ROOM = 8
"""A kernel rounds at every step, not its operands alone: the largest move times this is allowed."""


def widened(given: Mapping[str, object]) -> dict[str, Any]:
    """The same operands, floating tensors in float64."""
    return {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in given.items()
    }


def moved(given: Mapping[str, object], eps: float, seed: int) -> dict[str, object]:
    """Operands in float64 off by about one rounding each: every number times 1 + eps * a normal one."""
    make = torch.Generator().manual_seed(seed)

    def move(value: Tensor) -> Tensor:
        return value * (1.0 + eps * torch.randn(value.shape, generator=make, dtype=torch.float64).to(value.device))

    return {
        name: move(value) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in widened(given).items()
    }


def assert_conditioned(
    found: Mapping[str, Tensor],
    reference: Callable[[dict[str, object]], Mapping[str, Tensor]],
    given: Mapping[str, object],
    *,
    dtype: torch.dtype,
    tolerance: float | Mapping[str, float] | None = None,
) -> None:
    """As `assert_close` on every number found, against the reference in float64 of the operands given.

    A sum of terms that cancel has no error ratio that holds for all operands: only where a ratio is beyond the
    tolerance (of `dtype` unless one is given, or one by name), the bound becomes `ROOM` times what the reference moves.
    """
    expected = reference(widened(given))
    assert found.keys() == expected.keys()
    same = TOLERANCE[dtype] if tolerance is None else tolerance
    bounds = dict(same) if isinstance(same, Mapping) else dict.fromkeys(found, same)
    if any(x.shape == expected[n].shape and not error_ratio(x, expected[n]) <= bounds[n] for n, x in found.items()):
        for seed in range(MOVES):
            for name, other in reference(moved(given, torch.finfo(dtype).eps, seed)).items():
                bounds[name] = max(bounds[name], ROOM * error_ratio(other, expected[name]))
    for name, actual in found.items():
        assert_close(name, actual, expected[name], tolerance=bounds[name])
