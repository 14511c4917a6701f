"""The golden rule: when our numbers count as the reference's."""

from __future__ import annotations

from torch import Tensor

TOLERANCE = 1e-4
RATIO = 2.0
FLOOR = 2e-7


class NotGoldenError(AssertionError):
    """The numbers are not the reference's."""


def rms(values: Tensor) -> float:
    return float(values.double().pow(2).mean().sqrt())


def tolerance(expected: Tensor) -> float:
    """The largest difference that counts as equal."""
    return TOLERANCE * max(1.0, rms(expected))


def require_equal(name: str, ours: Tensor, expected: Tensor, exact: Tensor | None = None) -> None:
    """Compare at all positions; with a float64 run, our error must be at most twice the reference's own."""
    if ours.shape != expected.shape:
        raise NotGoldenError(f"{name} is {list(ours.shape)}, the reference's {list(expected.shape)}")
    difference = float((ours.double() - expected.double()).abs().max())
    if not difference <= tolerance(expected):
        raise NotGoldenError(f"{name} differs by {difference:.2e}; {tolerance(expected):.2e} is allowed")
    if exact is None:
        return
    error, own = rms(ours.double() - exact), rms(expected.double() - exact)
    allowed = RATIO * own + FLOOR * max(1.0, rms(exact))
    if not error <= allowed:
        raise NotGoldenError(
            f"{name} is {error:.2e} from the float64 run, the reference {own:.2e}; {allowed:.2e} is allowed"
        )
