"""What switches of the environment take from a test."""

from __future__ import annotations

import pytest


def only_with_passes() -> None:
    """Skips with LLMC_PASSES=0."""
    from llmc.compiler.program import passes_are_on

    if not passes_are_on():
        pytest.skip("LLMC_PASSES=0 switches off what this test is about")


def only_with_kernels() -> None:
    """Skips with LLMC_KERNELS=0."""
    from llmc.compiler.program import kernels_are_on

    if not kernels_are_on():
        pytest.skip("LLMC_KERNELS=0 switches off what this test is about")
