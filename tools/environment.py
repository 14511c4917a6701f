"""Warns of variables in the environment that look like llmc's and mean nothing to it: most often a misspelt switch."""

from __future__ import annotations

import os

from ..specs.diagnostics import did_you_mean, printable

VARIABLES = (
    "LLMC_CACHE_GIB",
    "LLMC_KERNELS",
    "LLMC_NATIVE",
    "LLMC_NUM_THREADS",
    "LLMC_PASSES",
    "LLMC_TRACEBACK",
)


def unknown_variables() -> list[str]:
    """A line for each `LLMC_…` that nothing reads, with the nearest that something does."""
    unknown = sorted(name for name in os.environ if name.startswith("LLMC_") and name not in VARIABLES)
    return [printable(f"nothing reads {name[:64]}; {did_you_mean(name, VARIABLES)}") for name in unknown]
