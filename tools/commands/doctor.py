"""`llmc doctor`: what this machine has, and what is slower or missing for want of it."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from ...runtime.user_cache import cache_folder
from ..options import json_option
from ..terminal import bytes_text, table, write_json

PACKAGES = ("torch", "triton", "transformers", "tokenizers", "safetensors", "numpy")
FEATURES = (
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512_bf16",
    "avx512_vnni",
    "avx_vnni",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
)
COMPILERS = ("gcc", "g++", "clang", "cc")


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """Versions, CPU features, cores, compiler, GPU and memory, and what is slower for want of one."""
    from ...runtime.memory import available_bytes

    packages = {name: _version(name) for name in PACKAGES}
    features = _cpu_features()
    cores = available_cores()
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    gpu, gpu_note = _gpu(packages["torch"])
    memory = available_bytes()
    notes = [*_notes(packages, features, cores, compiler), *([gpu_note] if gpu_note else [])]
    if as_json:
        write_json(
            {
                "llmc": version("llmc"),
                "python": platform.python_version(),
                "platform": platform.platform(),
                "packages": packages,
                "cpu": {"model": _cpu_name(), "features": features, "cores": cores, "logical": os.cpu_count()},
                "compiler": compiler,
                "gpu": gpu,
                "available_bytes": memory,
                "cache": str(cache_folder()),
                "notes": notes,
            }
        )
        return
    rows = [
        ("llmc", version("llmc")),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        *((name, found or "not installed") for name, found in packages.items()),
        ("cpu", _cpu_name()),
        ("features", ", ".join(features) or "unknown"),
        ("cores", f"{cores:g} available of {os.cpu_count()} logical"),
        ("compiler", compiler or "none"),
        ("gpu", gpu or "none"),
        ("memory", "unknown" if memory is None else f"{bytes_text(memory)} available"),
        ("cache", str(cache_folder())),
    ]
    table(["", ""], rows)
    print()
    for note in notes or ["nothing is missing"]:
        print(f"- {note}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpuinfo(key: str) -> str:
    """The first value of a key in /proc/cpuinfo; empty where there is no such file or key."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.split(":")[0].strip() == key), "")


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpu_features() -> list[str]:
    present = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return [name for name in FEATURES if name in present]


def available_cores() -> float:
    """Cores this process may really use: its affinity, and the quota of its control group."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        limit, period = ([*quota.read_text().split(), "100000"])[:2]
        if limit.isdigit() and period.isdigit() and int(period):
            return min(float(allowed), int(limit) / int(period))
    return float(allowed)


def _gpu(torch_version: str | None) -> tuple[str | None, str | None]:
    """The first GPU, and else why there is none."""
    if torch_version is None:
        return None, "torch is not installed: specs can be checked and shown, but nothing runs (pip install llmc)"
    import torch

    if not torch.cuda.is_available():
        built = "built without CUDA" if torch.version.cuda is None else "built for CUDA, but sees no driver or GPU"
        return None, f"no GPU: torch {torch.__version__} is {built}; everything runs on the CPU"
    major, minor = torch.cuda.get_device_capability(0)
    return f"{torch.cuda.get_device_name(0)}, {bytes_text(torch.cuda.mem_get_info(0)[1])}, sm_{major}{minor}", None


def _notes(packages: dict[str, str | None], features: list[str], cores: float, compiler: str | None) -> list[str]:
    notes: list[str] = []
    if features and "avx512_bf16" not in features and "amx_bf16" not in features:
        notes.append(
            "this CPU has no bfloat16 instructions: --dtype bfloat16 halves the memory, but a prompt takes longer"
        )
    if features and "avx2" not in features:
        notes.append("this CPU has no AVX2: products of matrices are several times slower")
    if cores < (os.cpu_count() or 1):
        notes.append(
            f"only {cores:g} of {os.cpu_count()} cores may be used here: more torch threads than that are slower"
        )
    if compiler is None:
        notes.append("no C compiler: torch.compile and triton cannot build kernels")
    if packages["triton"] is None:
        notes.append("triton is not installed: no GPU kernels of llmc's own")
    if packages["transformers"] is None:
        notes.append("transformers is not installed: only needed to compare with it in the tests")
    return notes
