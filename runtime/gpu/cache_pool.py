"""Caches that requests take and give back, so that a graph recorded over their buffers serves the next request."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager

from ..cache import Cache
from .buckets import capacity

Make = Callable[[int, int], Cache]
"""Rows and tokens a row -> a new cache."""

KEPT = 2
"""Free caches of one size that stay allocated."""


class CachePool:
    """Free caches by their size."""

    def __init__(self, make: Make, limit: int | None, forget: Callable[[Cache], None]) -> None:
        self._make, self._limit, self._forget = make, limit, forget
        self._free: dict[tuple[int, int], list[Cache]] = defaultdict(list)

    @contextmanager
    def lease(self, rows: int, tokens: int) -> Generator[Cache, None, None]:
        """An empty cache for `rows` rows of at least `tokens` tokens, for as long as the block runs."""
        key = (rows, capacity(tokens, self._limit))
        cache = self._free[key].pop() if self._free[key] else self._make(*key)
        cache.reset()
        try:
            yield cache
        finally:
            if len(self._free[key]) < KEPT:
                self._free[key].append(cache)
            else:
                self._forget(cache)
