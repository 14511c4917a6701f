"""What a decoded token launches on a GPU, by definition: the nodes that are more than views, and their kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

import llmc
from llmc.compiler.program import Program, kernels_are_on, passes_are_on

FIXTURES = Path(__file__).parent / "launches"
SPECS = ("llama2_7b", "gemma2", "qwen3", "mamba", "mixtral", "deepseek_v3", "trident")
VIEWS = ("split", "slice", "select", "reshape", "identity", "parameter", "cross_kv_read")
"""Ops that move nothing."""
NOTHING = "none"
"""The kernel of a node that nobody reads in this phase."""


def launches(program: Program) -> str:
    """A line a launching node, under its definition's name, how often that is called and how many nodes launch."""
    lines: list[str] = []
    for name, choices in program.kernels["decode"].items():
        calls = sum(call.definition == name for call in program.module.calls)
        launching = [choice for choice in choices if choice.op not in VIEWS and choice.kernel != NOTHING]
        lines.append(f"{name} x{calls}: {len(launching)}")
        lines += [f"    {choice.op} -> {choice.kernel}  ({choice.path})" for choice in launching]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("spec", SPECS)
def test_a_decoded_token(spec: str, request: pytest.FixtureRequest) -> None:
    if not (passes_are_on() and kernels_are_on()):
        pytest.skip("a switch takes away what this is about")
    text = launches(llmc.build(spec, device="cuda:sm_90", dtype="bfloat16"))
    golden = FIXTURES / f"{spec}.txt"
    if request.config.getoption("--update-golden"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()
