"""Costs that several ops share, in floating-point operations of one call."""

from __future__ import annotations

from .declaration import Fields, Inputs, Sizes


def one_flop(_fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    """One for each element of the first input."""
    return float(next(iter(inputs.values())).count(sizes))


def five_flops(_fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    """Five for each element of the first input: a norm squares, sums, divides, and weighs."""
    return 5.0 * next(iter(inputs.values())).count(sizes)
