"""Every Triton kernel fits the shared memory of every target, as the rules shape it there; the tuner knows them all."""

# pyright: basic
from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("triton")

import llmc.kernels
from llmc.kernels.gpu.target import TARGETS
from llmc.kernels.gpu.tuning import Tunable

from .recorded_launches import FLOAT8, Recorded, record

GENERATIONS = {
    generation: [name for name in TARGETS if int(name.removeprefix("sm_")) // 10 == generation]
    for generation in dict.fromkeys(int(name.removeprefix("sm_")) // 10 for name in TARGETS)
}
NEAR = "latent_attention.triton_decode:latent_kernel"
"""The kernel that is compiled with the coverage: the one that takes most of a block's shared memory."""


def modules() -> Iterator[tuple[Path, ModuleType]]:
    """All that may hold Triton kernels."""
    folder = Path(llmc.kernels.__file__).parent
    for path in sorted(folder.rglob("triton_*.py")):
        yield path, import_module(".".join(("llmc.kernels", *path.relative_to(folder).with_suffix("").parts)))


def launched() -> set[str]:
    """Every kernel that the code gives to `launchable`, as launches are named."""
    found = set()
    for path, module in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "launchable":
                function = getattr(module, ast.unparse(node.args[0])).fn
                found.add(f"{function.__module__.removeprefix('llmc.kernels.')}:{function.__name__}")
    return found


def tunables() -> set[str]:
    return {found.name for _, module in modules() for found in vars(module).values() if isinstance(found, Tunable)}


def complaints(architecture: str, recorded: Recorded) -> list[str]:
    """A line for each case that launches nothing, and for each launch that does not compile or fit."""
    target, lines = TARGETS[architecture], list(recorded.failed)
    for name, made in recorded.compiled.items():
        if FLOAT8 in name and not target.has_float8:
            if not made.error:
                lines.append(f"{architecture} has float8 after all: {name}")
        elif made.error or made.shared_memory > target.shared_memory:
            lines.append(f"{made.error or f'{made.shared_memory} bytes of {target.shared_memory}'}: {name}")
    return lines


@pytest.mark.slow
def test_the_benchmark_launches_every_kernel_and_asks_for_every_tunable(tmp_path: Path) -> None:
    """So that none is measured or tuned by nobody: a new one wants a case in tools/bench/gpu_cases."""
    recorded = record(["sm_89"], tmp_path, only=[NEAR], is_wide=False)["sm_89"]
    assert launched() - set(recorded.kernels) == set()
    assert tunables() - set(recorded.tunables) == set()
    assert recorded.compiled
    found = complaints("sm_89", recorded)
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_launch_fits_the_target(generation: int, tmp_path: Path) -> None:
    """What of a launch is compiled for which architecture is said in `recorded_launches`."""
    for architecture, recorded in record(GENERATIONS[generation], tmp_path).items():
        assert len(recorded.compiled) > 350
        found = complaints(architecture, recorded)
        assert not found, "\n".join(found)
