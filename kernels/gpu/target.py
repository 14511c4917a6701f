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
    """What a kernel's choice depends on. `shared_memory` is bytes a block, by NVIDIA's CUDA programming guide."""

    architecture: str
    shared_memory: int
    has_float8: bool


TARGETS: Mapping[str, GpuTarget] = MappingProxyType(
    {
        name: GpuTarget(architecture=name, shared_memory=size * KIB, has_float8=has_float8)
        for name, size, has_float8 in (
            ("sm_80", 163, False),
            ("sm_86", 99, False),
            ("sm_89", 99, True),
            ("sm_90", 227, True),
            ("sm_100", 227, True),
            ("sm_120", 99, True),
        )
    }
)
DEFAULT = "sm_90"
"""What `cuda` means where no GPU is present."""


def target_of(device: str) -> GpuTarget | None:
    """`cuda` (the GPU at hand, else sm_90), `cuda:1` or `cuda:sm_90` -> what is known of it, or None."""
    _, _, detail = device.partition(":")
    return TARGETS.get(detail if detail.startswith("sm_") else _present(int(detail) if detail.isdigit() else 0))


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
