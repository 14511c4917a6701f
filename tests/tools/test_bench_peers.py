"""The benchmark beside other engines: peers run in turn in their own processes, and missing ones are named."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import pytest

from llmc.compiler.program import native_is_on
from llmc.runtime.native.toolchain import NoCompiler, compiler
from llmc.tools.bench.peers import Child, Result, Unavailable, ratios, run, show


def result(name: str, width: str, decode: list[float], prefill: list[float]) -> Result:
    return Result(
        name=name,
        width=width,
        version="1",
        bytes=10,
        load=0.1,
        decode=decode,
        prefill=prefill,
        bandwidth=[100.0] * len(decode),
    )


def test_ratios_are_medians_of_pairs_of_one_width() -> None:
    found = ratios(
        [
            result("llmc bf16", "bf16", [1.0, 2.0, 1.0], [30.0, 10.0, 30.0]),
            result("llmc int8", "int8", [0.5] * 3, [60.0] * 3),
            result("llama.cpp BF16", "bf16", [2.0, 2.0, 3.0], [10.0, 10.0, 10.0]),
            result("llama.cpp TQ2_0", "ternary", [1.0] * 3, [10.0] * 3),
        ]
    )
    assert list(found) == ["llama.cpp BF16"]
    decode, prefill = found["llama.cpp BF16"]
    assert math.isclose(decode, 2.0)
    assert math.isclose(prefill, 3.0)


def test_a_peer_that_ends_says_why() -> None:
    with pytest.raises(Unavailable, match="no such engine"):
        Child([sys.executable, "-c", "import sys; sys.exit('first line\\nno such engine')"], [1, 2])


def test_peers_run_and_missing_ones_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not native_is_on():
        pytest.skip("machine code is switched off")
    try:
        compiler()
    except NoCompiler as reason:
        pytest.skip(str(reason))
    options = argparse.Namespace(
        folder=tmp_path,
        model="llama",
        shape=(1, 64, 96, 4, 2, 128),
        prompt=8,
        tokens=3,
        rounds=2,
        peers=["llmc bf16", "llama.cpp BF16", "onnxruntime-genai int4", "OpenVINO int4", "transformers eager"],
        llama_python=None,
        onnxruntime_python=None,
        openvino_python=None,
    )
    results, skipped = run(options)
    assert [one.name for one in results] == ["llmc bf16", "transformers eager"]
    assert list(skipped) == ["llama.cpp BF16", "onnxruntime-genai int4", "OpenVINO int4"]
    ours, theirs = results
    assert len(ours.decode) == len(ours.prefill) == len(theirs.bandwidth) == 2
    assert ours.token == theirs.token
    matrices = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 96 + 64 * 128
    state = 2 * 2 * 16 * (8 + 1) * 2
    assert ours.bytes == (matrices + 3 * 64 + 64) * 2 + state
    assert 2 * matrices <= theirs.bytes <= 2 * matrices + 4096
    show(results, skipped, options)
    text = capsys.readouterr().out
    assert "llama.cpp BF16: left out: give --llama-python" in text
    assert "the bf16 engines agree" in text
    assert not list(tmp_path.iterdir())
