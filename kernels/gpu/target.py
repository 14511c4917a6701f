"""The GPUs that kernels are picked for, told apart by architecture, none of them needed to be present.

Shared memory a block (the most that one may opt into) is that of NVIDIA's own table, `arch_traits.h` of CCCL
(github.com/NVIDIA/cccl, 2026): what a multiprocessor has less 1 KiB. Of the examples, public sources, read in November
2026, say:

- A100 SXM 80 GB: bandwidth, rates, 108 multiprocessors: NVIDIA's A100 data sheet (1758950 r4) as cited by
  glennklockwood.com/garden/processors/A100; 40 MiB of cache: a device query, PC2 Paderborn's page on its A100s.
- RTX 3090: 6 MiB of cache: NVIDIA's GA102 white paper V2.0 as cited; 35.6 TFLOP/s: a list of Hugging Face
  (datasets/ohdoking/gpu_spec). 936 GB/s and 71 TFLOP/s stand in secondary lists only; 82 multiprocessors of 512
  products a cycle at 1.695 GHz, at half the rate with sums in float32, are those 71.
- RTX 4090: 1.01 TB/s, 165.2 and 82.6 TFLOP/s, 128 multiprocessors, 72 MiB: hmc-tech.com, waredb.com.
- H100 SXM: 3350 GB/s, 1979 TFLOP/s with sparsity (half of it without), 67, 132 multiprocessors, 50 MB: NVIDIA's table
  as archived by archive-lib.hpctech.co.jp.
- B200: 2250 and 80 TFLOP/s at 1000 W: NVIDIA's Blackwell brief as cited by glennklockwood.com/garden/processors/B200.
  148 multiprocessors, 126.5 MiB, and 7680 bits at 3996 MHz: a device query (github.com/pytorch/ao, pull 4002, March
  2026), hence 7.67 TB/s and not the 8 TB/s that is advertised.
- RTX 5090: 1792 GB/s, 104.8 TFLOP/s, 170 multiprocessors, 96 MiB: Linux Format, May 2025, and techpowerup.com. Its 838
  TFLOP/s in 16 bits are with sparsity and sums in 16 bits; a quarter, 209.5, is derived and not found in so many words.
"""

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

    `shared_memory` is bytes a block. `memory` and `cache` (of the second level) in bytes, `bandwidth` in bytes a
    second, `flops` a second in 16 bits with sums in float32 and without sparsity, `flops_float32` and
    `multiprocessors` are those of `example`.
    """

    architecture: str
    shared_memory: int
    has_float8: bool
    example: str
    memory: float
    bandwidth: float
    flops: float
    flops_float32: float
    multiprocessors: int
    cache: int


def _target(
    name: str, kib: int, has_float8: bool, example: str, gigabytes: int, gigabytes_per_second: int, tflops: float,
    tflops_float32: float, multiprocessors: int, cache_mib: int,
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
        multiprocessors=multiprocessors,
        cache=cache_mib * KIB**2,
    )


TARGETS: Mapping[str, GpuTarget] = MappingProxyType(
    {
        target.architecture: target
        for target in (
            _target("sm_80", 163, False, "A100 SXM 80 GB", 80, 2039, 312, 19.5, 108, 40),
            _target("sm_86", 99, False, "RTX 3090", 24, 936, 71, 35.6, 82, 6),
            _target("sm_89", 99, True, "RTX 4090", 24, 1008, 165.2, 82.6, 128, 72),
            _target("sm_90", 227, True, "H100 SXM", 80, 3350, 989, 67, 132, 50),
            _target("sm_100", 227, True, "B200", 180, 7672, 2250, 80, 148, 126),
            _target("sm_120", 99, True, "RTX 5090", 32, 1792, 209.5, 104.8, 170, 96),
        )
    }
)
DEFAULT = "sm_90"
"""What `cuda` means where no GPU is present."""


def target_of(device: str) -> GpuTarget | None:
    """`cuda` (the GPU at hand, else sm_90), `cuda:1` or `cuda:sm_90` -> what is known of it, or None."""
    _, _, detail = device.partition(":")
    return TARGETS.get(detail if detail.startswith("sm_") else _present(int(detail) if detail.isdigit() else 0))


def launch_target() -> GpuTarget:
    """What launches are shaped for: the GPU at hand, else sm_90."""
    return target_of("cuda") or TARGETS[DEFAULT]


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
    """How many multiprocessors the GPU has; where none is present, the example of the target."""
    import torch

    if not torch.cuda.is_available():
        return launch_target().multiprocessors
    found = cast("Any", torch.cuda.get_device_properties(index or 0))  # pyright: ignore[reportUnknownMemberType]
    return cast("int", found.multi_processor_count)


@cache
def _present(index: int) -> str:
    import torch

    if not torch.cuda.is_available():
        return DEFAULT
    major, minor = torch.cuda.get_device_capability(index)
    return f"sm_{major}{minor}"
