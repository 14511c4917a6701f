"""The program as C: how it grows, what lies where, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmc
from llmc.compiler.native.buffers import ALIGNMENT, Buffer, place, rounded
from llmc.compiler.native.definition import commented
from llmc.compiler.native.regions import Region, regions
from llmc.compiler.native.source import write_program
from llmc.compiler.ops.declaration import Value
from llmc.compiler.program import Program

SMALL: dict[str, Value] = {"hidden_size": 48, "num_heads": 4, "intermediate_size": 80, "vocab_size": 61}


@st.composite
def buffers(draw: st.DrawFn) -> list[Buffer]:
    found: list[Buffer] = []
    for index in range(draw(st.integers(0, 12))):
        first = draw(st.integers(0, 8))
        last = first + draw(st.integers(0, 5))
        found.append(Buffer(name=f"b{index}", floats=draw(st.integers(1, 200)), first=first, last=last))
    return found


@given(buffers())
def test_no_two_live_buffers_overlap(made: Sequence[Buffer]) -> None:
    total = place(made)
    for one in made:
        assert one.offset % ALIGNMENT == 0
        assert one.offset + one.floats <= total
        for other in made:
            live_together = one.first <= other.last and other.first <= one.last
            if one is not other and live_together:
                assert (
                    one.offset + rounded(one.floats) <= other.offset
                    or other.offset + rounded(other.floats) <= one.offset
                )
    assert total <= sum(rounded(one.floats) for one in made)


def built(name: str, params: dict[str, Value]) -> Program:
    program = llmc.build(name, params)
    if program.native is None:
        pytest.skip("machine code is switched off")
    return program


def test_the_text_does_not_grow_with_depth() -> None:
    few, many = (built("llama", {**SMALL, "num_layers": n}) for n in (4, 64))
    assert few.native is not None
    assert many.native is not None
    assert few.native.text == many.native.text
    assert few.native.locals_floats == many.native.locals_floats
    assert few.native.values_floats == many.native.values_floats


def test_what_stays_with_torch_is_named() -> None:
    program = built("llama", {**SMALL, "rope_scaling": "dynamic", "rope_factor": 2.0})
    assert program.native is not None
    assert list(program.native.refused) == ["entry_part1"]
    assert "depends on the length" in program.native.refused["entry_part1"].reason
    assert regions(program.module, program.native) == (0, Region(1, len(program.module.calls) - 1))


def test_float64_stays_with_torch() -> None:
    program = built("llama", dict(SMALL))
    refused = write_program(program.module, "float64").refused
    assert set(refused) == set(program.module.definitions)


def test_text_from_a_spec_cannot_leave_its_comment() -> None:
    assert "*/" not in commented("a */ system() /*")
    assert commented("\n\u202e") == "\\n\\u202e"
