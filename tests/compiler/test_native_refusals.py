"""Which packaged specs are not wholly machine code, and why. The list may only shrink."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

import llmc
from llmc.compiler.native.source import write_program
from llmc.specs.packaged import packaged_names

REFUSED: Mapping[str, frozenset[str]] = {
    "t5": frozenset(
        {
            "a value of shape [B, S_encoder, n] float has no rows",
            "a value of shape [B, S_encoder] int64 has no rows",
            "op relative_bias has no kernel in C",
            "the kernel in C knows nothing of distance_bias",
        }
    ),
    "gemma3n": frozenset(
        {"a value of shape [B, n, S, n] float has no rows", "an output is not a value in C"},
    ),
}
"""By family, what torch runs a definition for: a second axis of tokens and biases by distance; keys and values that
other layers read. `n` is a size."""


def reasons(name: str) -> frozenset[str]:
    """Why definitions of a packaged spec are not written in C."""
    program = llmc.build(name)
    refused = write_program(program.module, "float32", program.spec.document.path).refused
    return frozenset(re.sub(r"(?<=[ \[])\d+", "n", reason.reason) for reason in refused.values())


@pytest.mark.parametrize("name", packaged_names())
def test_only_these_are_not_wholly_machine_code(name: str) -> None:
    family = re.sub(r"^flan_|_.*", "", name)
    assert reasons(name) == REFUSED.get(family, frozenset())
