"""Measures prefill and decode of several engines in turn, each run beside a measurement of what the machine can do."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

MOST_PROBED = 1 << 30
"""Bytes that a probe reads at most; a model that is larger is out of every cache anyway."""


class Engine(Protocol):
    """A loaded model that can be timed."""

    name: str

    def prefill(self) -> float:
        """Seconds of a pass over the prompt, into a new cache."""
        ...

    def decode(self) -> float:
        """Seconds of the tokens after the prompt of the last `prefill`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What an engine cannot do without: bytes that a decoded token reads, operations of a prompt and their dtype."""

    decode_bytes: float
    prefill_operations: float
    dtype: str


class Limits(Protocol):
    """What the machine can do at this moment."""

    def bandwidth(self, size: float) -> float:
        """Bytes read a second, of memory of about `size` bytes."""
        ...

    def rate(self, dtype: str) -> float:
        """Operations a second on numbers of the dtype."""
        ...


@dataclass(slots=True, kw_only=True)
class Series:
    """One test of one engine: `speed` and `limit` of each repetition, tokens per second."""

    engine: str
    test: str
    speed: list[float] = field(default_factory=list[float])
    limit: list[float] = field(default_factory=list[float])

    @property
    def share(self) -> float:
        """The median of what was reached of the limit measured beside it."""
        return statistics.median(a / b for a, b in zip(self.speed, self.limit, strict=True))

    @property
    def spread(self) -> float:
        return statistics.stdev(self.speed) if len(self.speed) > 1 else 0.0


@dataclass(slots=True, kw_only=True)
class Measured:
    """All series, and what the machine did: bytes per second, and operations per second by dtype."""

    series: list[Series]
    bandwidth: list[float]
    rates: dict[str, list[float]]


def measure(
    engines: Sequence[tuple[Engine, Floor]],
    limits: Limits,
    *,
    prompt: int,
    tokens: int,
    batch: int,
    repetitions: int,
    report: Callable[[str], None],
) -> Measured:
    """One repetition to warm up, then `repetitions` with the engines in turn. Speeds are of all rows together.

    The limit of a test is the mean of two measurements of the machine, before and after it.
    """
    found = Measured(series=[], bandwidth=[], rates={})
    pairs: list[tuple[Series, Series]] = []
    for engine, _ in engines:
        pair = Series(engine=engine.name, test=f"pp{prompt}"), Series(engine=engine.name, test=f"tg{tokens}")
        pairs.append(pair)
        found.series += pair
    for repetition in range(repetitions + 1):
        for (engine, floor), (prefill, decode) in zip(engines, pairs, strict=True):
            rate = limits.rate(floor.dtype)
            prefill_speed = batch * prompt / engine.prefill()
            rates = rate, limits.rate(floor.dtype)
            read = limits.bandwidth(floor.decode_bytes)
            decode_speed = batch * tokens / engine.decode()
            reads = read, limits.bandwidth(floor.decode_bytes)
            if repetition == 0:
                continue
            found.bandwidth += reads
            found.rates.setdefault(floor.dtype, []).extend(rates)
            prefill.speed.append(prefill_speed)
            prefill.limit.append(batch * prompt * statistics.fmean(rates) / floor.prefill_operations)
            decode.speed.append(decode_speed)
            decode.limit.append(batch * statistics.fmean(reads) / floor.decode_bytes)
            report(f"  repetition {repetition}, {engine.name}: pp {prefill_speed:.1f}, tg {decode_speed:.1f} tokens/s")
    return found
