"""The GPUs that kernels are picked for, told apart by architecture, none of them needed to be present."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, cast

KIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuTarget:
    """What a kernel's choice depends on, and what a GPU of the architecture can do.

    `shared_memory` is bytes a block, by NVIDIA's CUDA programming guide. `memory` in bytes, `bandwidth` in bytes a
    second, `flops` a second in 16 bits with sums in float32 and without sparsity, and `flops_float32` are those of
    `example`, by its data sheet.
    """

    architecture: str
    shared_memory: int
    has_float8: bool
    example: str
    memory: float
    bandwidth: float
    flops: float
    flops_float32: float


def _target(
    name: str, kib: int, has_float8: bool, example: str, gigabytes: int, gigabytes_per_second: int, tflops: float,
    tflops_float32: float,
) -> GpuTarget:  # fmt: skip
    return GpuTarget(
        architecture=name,
        shared_memory=kib * KIB,
        has_float8=has_float8,
        example=example,
        memory=gigabytes * 1e9,
        bandwidth=gigabytes_per_second * 1e9,
        flops=tflops * 1e12,
        flops_float32=tflops_float32 * 1e12,
    )


TARGETS: Mapping[str, GpuTarget] = MappingProxyType(
    {
        target.architecture: target
        for target in (
            _target("sm_80", 163, False, "A100 SXM 80 GB", 80, 2039, 312, 19.5),
            _target("sm_86", 99, False, "RTX 3090", 24, 936, 71, 35.6),
            _target("sm_89", 99, True, "RTX 4090", 24, 1008, 165, 82.6),
            _target("sm_90", 227, True, "H100 SXM", 80, 3350, 989, 67),
            _target("sm_100", 227, True, "B200", 180, 8000, 2250, 80),
            _target("sm_120", 99, True, "RTX 5090", 32, 1792, 209, 104.8),
        )
    }
)
DEFAULT = "sm_90"
"""What `cuda` means where no GPU is present."""


def target_of(device: str) -> GpuTarget | None:
    """`cuda` (the GPU at hand, else sm_90), `cuda:1` or `cuda:sm_90` -> what is known of it, or None."""
    _, _, detail = device.partition(":")
    return TARGETS.get(detail if detail.startswith("sm_") else _present(int(detail) if detail.isdigit() else 0))


def asked_target(device: str) -> GpuTarget | None:
    """What is known of `cuda:sm_90`; None where the device is a real one, or none that is known."""
    return TARGETS.get(device.partition(":")[2])


def refusal(device: str) -> str | None:
    """None where Triton kernels run on the device, else why not. Imports neither triton nor, for a CPU, torch."""
    if not device.startswith("cuda"):
        return f"a Triton kernel runs on a GPU, not on {device}"
    if find_spec("triton") is None:
        return "triton is not installed"
    if target_of(device) is None:
        return f"no GPU architecture {device.partition(':')[2] or _present(0)} among {', '.join(TARGETS)}"
    return None


@cache
def multiprocessors(index: int | None = None) -> int:
    """How many multiprocessors the GPU has; 132, those of an H100 or H200, where none is present."""
    import torch

    if not torch.cuda.is_available():
        return 132
    found = cast("Any", torch.cuda.get_device_properties(index or 0))  # pyright: ignore[reportUnknownMemberType]
    return cast("int", found.multi_processor_count)


@cache
def _present(index: int) -> str:
    import torch

    if not torch.cuda.is_available():
        return DEFAULT
    major, minor = torch.cuda.get_device_capability(index)
    return f"sm_{major}{minor}"
