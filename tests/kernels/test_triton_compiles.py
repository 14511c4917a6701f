"""Triton kernels compile for a GPU, within its shared memory and without spills, though none is here."""

# pyright: basic
from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("triton")

from llmc.kernels.gpu.target import TARGETS

from . import compiled_norm
from .compile_for_gpu import Case, compile_for_gpu

FAMILIES = {
    path.stem.removeprefix("compiled_"): import_module(f".{path.stem}", __package__).CASES
    for path in sorted(Path(__file__).parent.glob("compiled_*.py"))
}


def complaints(cases: Sequence[Case], cache: Path) -> list[str]:
    """A line for each case that does not compile or takes too much."""
    assert len({case.name for case in cases}) == len(cases), "two cases of one name"
    lines: list[str] = []
    for case, made in zip(cases, compile_for_gpu(cases, cache).values(), strict=True):
        limit = TARGETS[case.architecture].shared_memory
        print(f"{case.name}: {made.registers} registers, {made.spills} spilled, {made.shared_memory} shared")
        if made.error:
            lines.append(f"{case.name}: {made.error}")
        if made.shared_memory > limit:
            lines.append(f"{case.name}: {made.shared_memory} bytes of shared memory, {limit} allowed")
        if made.waits and not case.may_wait:
            lines.append(f"{case.name}: its products wait for each other, due to {made.waits}")
        if made.spills > case.spills:
            lines.append(f"{case.name}: {made.spills} bytes spilled, {case.spills} allowed")
    return lines


def test_the_first_of_each_family_compiles(tmp_path: Path) -> None:
    """And one that lacks an argument is told of, in the same process, which is what costs."""
    whole = compiled_norm.CASES[0]
    few = Case(name="few", kernel=whole.kernel, arguments={}, constexprs=whole.constexprs)
    found = complaints([few, *(cases[0] for cases in FAMILIES.values())], tmp_path)
    assert "few: norm.triton_rms_norm:_forward takes" in found[0]
    assert not found[1:], "\n".join(found[1:])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_all_of_a_family_compile(family: str, tmp_path: Path) -> None:
    found = complaints(FAMILIES[family], tmp_path)
    assert not found, "\n".join(found)
