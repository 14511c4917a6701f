"""Tells whoever watches a compilation how long each of its phases took."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeAlias

PhaseObserver: TypeAlias = Callable[[str, float], None]
"""Called when a phase has ended, with its name and its seconds."""


@contextmanager
def phase(name: str, on_phase: PhaseObserver | None) -> Generator[None, None, None]:
    """Time the block. A phase that raises is not reported: its diagnostics are."""
    started = time.perf_counter()
    yield
    if on_phase is not None:
        on_phase(name, time.perf_counter() - started)
