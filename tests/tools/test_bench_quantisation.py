"""The table of packing errors is made for a folder and a text."""

from __future__ import annotations

import pytest

from llmc.compiler.program import native_is_on
from llmc.runtime.native.toolchain import NoCompiler, compiler
from llmc.specs.packaged import packaged_folder
from llmc.tools.bench.quantisation import measure, show


def test_formats_in_order_of_their_error(capsys: pytest.CaptureFixture[str]) -> None:
    if not native_is_on():
        pytest.skip("machine code is switched off")
    try:
        compiler()
    except NoCompiler as reason:
        pytest.skip(str(reason))
    folder = packaged_folder() / "models" / "small"
    text = (folder / "heldout.txt").read_text()[:3000]
    found = measure(folder, text, ["int8", "int4", "ternary"], size=64, most=2)
    assert found["int8"].divergence < found["int4"].divergence < found["ternary"].divergence
    assert len({error.before for error in found.values()}) == 1
    show(found)
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(found)
