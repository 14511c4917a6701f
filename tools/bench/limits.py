"""What a machine can do: a CPU as the native probe measures it, any device as torch does."""

from __future__ import annotations

from functools import cache

from ...runtime.native.probe import Probe
from ...runtime.native.toolchain import NoCompiler
from .speed import MOST_PROBED, Limits


class NativeCpu:
    """Reads on all threads of the team, and arithmetic in registers. Raises NoCompiler."""

    def __init__(self, size: float) -> None:
        self._probe = Probe(round(min(size, MOST_PROBED)))

    def bandwidth(self, size: float) -> float:
        return self._probe.bandwidth(round(size))

    def rate(self, dtype: str) -> float:
        """bfloat16 runs as float32 where that is faster, so its rate is at least that one's."""
        found = self._probe.rate(dtype)
        return max(found, self._probe.rate("float32")) if dtype == "bfloat16" else found


class Torch:
    """Measured once: `sum` and a product of matrices reach less than the hardware on most CPUs."""

    def __init__(self, device: str) -> None:
        self._device = device

    def bandwidth(self, size: float) -> float:
        del size
        return _measured(self._device, "float32")[0]

    def rate(self, dtype: str) -> float:
        return _measured(self._device, dtype)[1]


@cache
def _measured(device: str, dtype: str) -> tuple[float, float]:
    from ..roofline import measure_by_torch

    found = measure_by_torch(device, dtype)
    return found.bandwidth, found.flops


def limits(device: str, size: float) -> tuple[Limits, str]:
    """The machine that a model runs on, and how it is measured. size: the most bytes that will be asked for."""
    if not device.startswith("cpu"):
        return Torch(device), "by torch, once"
    try:
        return NativeCpu(size), "beside every run, all threads"
    except NoCompiler as reason:
        return Torch(device), f"by torch, once ({reason})"
