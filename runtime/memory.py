"""Says before loading whether memory will do."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..specs.diagnostics import fail


def available_bytes() -> int | None:
    """Bytes that the system can still give; None where it does not say."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def peak_bytes() -> int | None:
    """The most memory that this process has held so far; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def require_memory(needed: int, what: str) -> None:
    """Raises E0950 where `needed` bytes are more than the system has left."""
    available = available_bytes()
    if available is not None and needed > available:
        raise fail(
            "E0950",
            f"{what} need {needed / 2**30:.1f} GiB, but only {available / 2**30:.1f} GiB are free",
            help="take dtype=bfloat16, a smaller model, or `llmc build`, which needs no weights",
        )
