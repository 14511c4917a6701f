"""The operators of GPU programs survive torch.export and torch's compiler: they stand whole in the graphs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
WORKER = Path(__file__).parent / "exported_worker.py"
LONG = pytest.mark.slow


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            "hydra_tiny",
            {"add_rms_norm", "append_attend", "attention", "kv_append_seen", "scan_selective"},
        ),
        pytest.param("llama_tiny", {"append_attend", "few_rows_linear", "kv_append", "rope_table"}, marks=LONG),
        pytest.param("mixtral_tiny", {"experts_of_few", "experts_of_many", "router"}, marks=LONG),
        pytest.param("trident_tiny", {"quantise_activation", "ternary_product", "ternary_vector"}, marks=LONG),
    ],
)
def test_operators_stand_in_the_graphs(spec: str, expected: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", str(WORKER), spec],
        env=os.environ | {"TRITON_INTERPRET": "0", "LLMC_KERNELS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert expected <= set(json.loads(done.stdout)[spec])
