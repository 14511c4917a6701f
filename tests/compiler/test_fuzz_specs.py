"""Whatever a spec holds, `read` gives a model or a diagnostic, soon and in bounded memory."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmc.compiler.pipeline import read
from llmc.specs.codes import CODES
from llmc.specs.diagnostics import LlmcError
from llmc.specs.render import render

sys.path.insert(0, str(Path(__file__).parent))
from spec_mutations import generated, mutated

SECONDS = 2.0
"""Of processor time, for one spec."""

MEMORY = 4 << 30
"""Bytes of address space that the child gets."""

Make = Callable[[random.Random], str]


def outcome(text: str, folder: Path) -> str:
    """`legal`, or the first code; anything but a diagnostic is raised."""
    path = folder / "fuzz.yaml"
    path.write_text(text, encoding="utf-8")
    began = time.process_time()
    try:
        read(path)
        found = ()
    except LlmcError as error:
        found = error.diagnostics
        if not found:
            raise
    assert time.process_time() - began < SECONDS, text
    for diagnostic in found:
        assert diagnostic.code in CODES
        assert diagnostic.span is not None
        assert diagnostic.help
    assert render(found).replace("\n", "").isprintable()
    return found[0].code if found else "legal"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def _check(make: Make, folder: Path, examples: int) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
        database=None,
    )
    @given(st.integers(min_value=0, max_value=2**32))
    def property_holds(seed: int) -> None:
        outcome(make(random.Random(seed)), folder)

    property_holds()


@pytest.mark.parametrize("make", [mutated, generated])
def test_a_random_spec_is_read_or_diagnosed(make: Make, folder: Path) -> None:
    _check(make, folder, 20)


@pytest.mark.slow
@pytest.mark.parametrize("make", [mutated, generated])
def test_many_random_specs_are_read_or_diagnosed(make: Make, folder: Path) -> None:
    _check(make, folder, 200)


def test_generated_specs_reach_every_stage(folder: Path) -> None:
    """Some are legal, some break a rule of shapes: otherwise the test above tries little."""
    found = {outcome(generated(random.Random(seed)), folder) for seed in range(60)}
    assert "legal" in found
    assert any(code.startswith("E06") for code in found)


@pytest.mark.parametrize("count", [30, pytest.param(400, marks=pytest.mark.slow)])
def test_a_batch_stays_within_its_memory(count: int) -> None:
    """In a child that may take 4 GiB of address space and is killed when it hangs."""
    code = (
        "import random, resource, sys, tempfile\nfrom pathlib import Path\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_fuzz_specs import generated, mutated, outcome\n"
        "folder = Path(tempfile.mkdtemp())\n"
        f"for seed in range(10**6, 10**6 + {count}):\n"
        "    for make in (mutated, generated):\n"
        "        outcome(make(random.Random(seed)), folder)\n"
        "print('done')\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    child = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        timeout=60 + 10 * count,
        env=environment,
        check=False,
    )
    assert child.stdout.strip() == "done", child.stderr[-2000:]
