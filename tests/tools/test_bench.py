"""`llmc bench`: what it counts as the least work, how it measures engines in turn, and what it prints."""

from __future__ import annotations

import csv
import io
import math
from typing import cast

import pytest

import llmc
from llmc.compiler.plan import plan
from llmc.compiler.program import native_is_on
from llmc.runtime.native.probe import KINDS, Probe
from llmc.runtime.native.toolchain import NoCompiler, compiler
from llmc.tools.bench.llmc_engine import LlmcEngine, floor, random_ids
from llmc.tools.bench.speed import Floor, measure

from .command_line import TINY, run, values

SHORT = ("--prompt", "8", "--tokens", "4", "--repetitions", "2")
SIZES = {
    "num_layers": 2,
    "hidden_size": 64,
    "num_heads": 4,
    "num_kv_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 128,
    "max_seq_len": 64,
}
MATRICES = 2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 96)
HEAD, NORMS = 128 * 64, 5 * 64


@pytest.fixture
def _needs_a_compiler() -> None:
    if not native_is_on():
        pytest.skip("machine code is switched off")
    try:
        compiler()
    except NoCompiler as reason:
        pytest.skip(str(reason))


class Fake:
    """An engine of a known speed that says when it runs."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def prefill(self) -> float:
        self.log.append(f"{self.name} prefill")
        return 0.5

    def decode(self) -> float:
        self.log.append(f"{self.name} decode")
        return 0.25


class Fixed:
    """A machine of 1000 bytes and 2000 operations a second."""

    def bandwidth(self, size: float) -> float:
        return 1000.0

    def rate(self, dtype: str) -> float:
        return 2000.0


def test_engines_take_turns_and_shares_are_of_the_limit() -> None:
    log: list[str] = []
    least = Floor(decode_bytes=10, prefill_operations=400, dtype="float32")
    found = measure(
        [(Fake("a", log), least), (Fake("b", log), least)],
        Fixed(),
        prompt=8,
        tokens=4,
        batch=2,
        repetitions=2,
        report=lambda _: None,
    )
    assert log == ["a prefill", "a decode", "b prefill", "b decode"] * 3
    prefill, decode = found.series[:2]
    assert (prefill.speed, prefill.limit) == ([32.0] * 2, [80.0] * 2)
    assert (decode.speed, decode.limit) == ([32.0] * 2, [200.0] * 2)
    assert math.isclose(prefill.share, 0.4)
    assert math.isclose(decode.share, 0.16)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_least_that_is_read(dtype: str) -> None:
    model = llmc.load("llama", params={**SIZES, "tie_word_embeddings": False}, dtype=dtype)
    size = model.dtype.itemsize
    state = 2 * 2 * 2 * 16 * (8 + 2) * size
    expected = (MATRICES + HEAD + NORMS + 64) * size + state
    assert floor(model, batch=1, prompt=8, tokens=4).decode_bytes == expected


@pytest.mark.usefixtures("_needs_a_compiler")
def test_the_least_that_is_read_of_packed_matrices() -> None:
    model = llmc.load("llama", params={**SIZES, "tie_word_embeddings": True}, quantize="int8")
    found, plain = (floor(model, batch=1, prompt=8, tokens=4, is_packed=packed) for packed in (True, False))
    state = 2 * 2 * 2 * 16 * (8 + 2) * 4
    matrices = found.decode_bytes - state - NORMS * 4
    assert MATRICES + HEAD <= matrices <= 1.25 * (MATRICES + HEAD)
    assert plain.decode_bytes == (MATRICES + HEAD + NORMS) * 4 + state
    assert (found.dtype, plain.dtype) == ("int8", "float32")


@pytest.mark.usefixtures("_needs_a_compiler")
def test_the_least_that_is_read_of_packed_experts() -> None:
    """Two of eight, in the bytes that they are packed in."""
    params = {**SIZES, "num_layers": 1, "num_experts": 8, "tie_word_embeddings": True}
    model = llmc.load("mixtral", params=params, quantize="int8")
    found = floor(model, batch=1, prompt=8, tokens=4)
    attention, one, router = 2 * 64 * 64 + 2 * 64 * 32, 3 * 64 * 96, 8 * 64
    matrices = found.decode_bytes - 2 * 2 * 16 * (8 + 2) * 4 - (3 * 64 + router) * 4
    assert attention + 2 * one + HEAD <= matrices <= 1.25 * (attention + 2 * one + HEAD)


def test_only_the_last_token_of_a_prompt_needs_the_head() -> None:
    model = llmc.load("llama", params={**SIZES, "tie_word_embeddings": False})
    program = model.program
    every = plan(program.model, program.weights.ties, context=33).prefill_flops
    left_out = every - floor(model, batch=1, prompt=33, tokens=4).prefill_operations
    assert 32 * 2 * HEAD <= left_out <= 1.1 * 32 * 2 * HEAD


@pytest.mark.usefixtures("_needs_a_compiler")
def test_the_probe_measures() -> None:
    probe = Probe(3 << 20)
    assert probe.bandwidth() > 0
    assert probe.bandwidth(1) > 0
    assert all(probe.rate(dtype) > 1e8 for dtype in KINDS)


def test_both_ways_to_decode_fill_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_native in ("1", "0"):
        monkeypatch.setenv("LLMC_NATIVE", is_native)
        model = llmc.load("llama_tiny")
        engine = LlmcEngine(model, random_ids(model, 2, 5), 3)
        assert engine.prefill() > 0
        assert engine.decode() > 0


def test_table() -> None:
    text = run("bench", TINY, *SHORT).stdout
    header, prefill, decode = text.splitlines()[:3]
    assert header.split()[0] == "engine"
    assert "pp8" in prefill
    assert "tg4" in decode
    assert "±" in decode
    for fact in ("read bandwidth", "float32 rate", "load, llmc", "peak memory", "best", "median"):
        assert fact in text


def test_the_prompt_leaves_room_for_the_tokens() -> None:
    found = cast("dict[str, object]", values("bench", "llama_tiny", "--tokens", "40", "--repetitions", "1"))
    tests = cast("list[dict[str, object]]", found["tests"])
    limit = llmc.load("llama_tiny").max_seq_len
    assert limit is not None
    assert [test["test"] for test in tests] == [f"pp{min(512, limit - 40)}", "tg40"]


def test_markdown() -> None:
    header, rule, prefill, decode, blank, *facts = run("bench", TINY, *SHORT, "--format", "markdown").stdout.split("\n")
    assert header.count("|") == rule.count("|") == prefill.count("|") == decode.count("|")
    assert blank == ""
    assert all(line.startswith("- ") for line in facts if line)


def test_csv_and_json_hold_the_same() -> None:
    rows = list(csv.DictReader(io.StringIO(run("bench", TINY, *SHORT, "--format", "csv").stdout)))
    found = cast("dict[str, object]", values("bench", TINY, *SHORT))
    tests = cast("list[dict[str, object]]", found["tests"])
    assert [row["test"] for row in rows] == [test["test"] for test in tests] == ["pp8", "tg4"]
    assert {row["parameters"] for row in rows} == {str(found["parameters"])}
    assert all(float(row["best"]) >= float(row["median"]) > 0 for row in rows)
    assert len(cast("list[float]", tests[0]["tokens_per_second"])) == 2


@pytest.mark.usefixtures("_needs_a_compiler")
def test_packed_and_against_transformers() -> None:
    found = cast("dict[str, object]", values("bench", "llama_tiny", *SHORT, "--against", "hf", "--quantize", "int8"))
    tests = cast("list[dict[str, object]]", found["tests"])
    assert [test["engine"] for test in tests] == ["llmc", "llmc", "transformers", "transformers"]
    assert [test["dtype"] for test in tests] == ["int8", "int8", "float32", "float32"]
    assert found["weights"] == "random"


def test_an_architecture_that_transformers_lacks_is_a_diagnostic() -> None:
    result = run("bench", "chimera_tiny", *SHORT, "--against", "hf")
    assert result.exit_code in (1, 3, 4)
    assert "error[E" in result.stderr
