"""Every packaged spec is machine code, all of it: one region for each token, one before for what is given once."""

from __future__ import annotations

import pytest

import llmc
from llmc.compiler.axes import STREAM
from llmc.compiler.native.regions import Region, regions
from llmc.specs.packaged import packaged_names


@pytest.mark.parametrize("name", packaged_names())
def test_a_token_is_one_native_call(name: str) -> None:
    program = llmc.build(name)
    if program.native is None:
        pytest.skip("machine code is switched off")
    assert not program.native.refused
    parts = regions(program.module, program.native)
    once = sum(call.rate == "once" for call in program.module.calls)
    before = [Region(0, once, parts[0].axis, is_once=True)] if once and isinstance(parts[0], Region) else []
    assert list(parts) == [*before, Region(once, len(program.module.calls) - once, STREAM)]
