"""Prints what a compilation is doing and how long it took, without a gap."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module

from .terminal import log


class PhaseLog:
    """One line on stderr for each phase as it ends, and the total."""

    def __init__(self, *, is_quiet: bool = False) -> None:
        self.is_quiet = is_quiet
        self.started = time.perf_counter()
        self.phases: list[tuple[str, float]] = []

    def __call__(self, name: str, seconds: float) -> None:
        self.phases.append((name, seconds))
        if not self.is_quiet:
            log(f"  {name:<24} {seconds:8.3f} s")

    @contextmanager
    def time(self, name: str) -> Generator[None, None, None]:
        """Report the block as one phase."""
        started = time.perf_counter()
        yield
        self(name, time.perf_counter() - started)

    def load(self, label: str, *modules: str) -> None:
        """Import modules as one phase: it is often the longest. A leading dot is llmc's own."""
        package = __name__.rsplit(".", 2)[0]
        with self.time(f"import {label}"):
            for module in modules:
                import_module(module, package)

    @property
    def total(self) -> float:
        """Seconds since the log was made."""
        return time.perf_counter() - self.started

    def end(self) -> None:
        if not self.is_quiet:
            log(f"  {'total':<24} {self.total:8.3f} s")
