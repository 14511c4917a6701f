"""Which packaged specs are not wholly machine code, and why. The list may only shrink."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

import llmc
from llmc.compiler.native.source import write_program

from .native_specs import NAMES

REFUSED: Mapping[str, str] = {
    "gemma3n": "B, 2, S",
    "t5": "S_encoder",
}
"""Families that torch runs in part, and what a reason says: values along an axis of cached tokens that leave their
definition, and values along the axis of a second stream."""


@pytest.mark.parametrize("name", NAMES)
def test_every_definition_is_machine_code(name: str) -> None:
    program = llmc.build(name)
    refused = write_program(program.module, "float32", program.spec.document.path).refused
    family = next((known for known in REFUSED if name.removeprefix("flan_").startswith(known)), None)
    if family is None:
        assert not refused, {definition: reason.reason for definition, reason in refused.items()}
    else:
        assert any(REFUSED[family] in reason.reason for reason in refused.values())
