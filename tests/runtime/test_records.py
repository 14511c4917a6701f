"""Records as JSON: what is read equals what was written, and nothing else than known kinds comes out of a text."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from llmc.compiler.facts import Facts, facts
from llmc.compiler.native.outline import Outline, outline
from llmc.compiler.pipeline import build
from llmc.runtime.records import from_json, to_json
from llmc.runtime.remembered import KINDS

UNLIKE = ("llama_tiny", "mamba", "deepseek_v3", "gemma3n", "zamba2", "t5_small")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    x: float
    names: tuple[str, ...] = ()
    inner: Point | None = None


POINTS = {"Point": Point}


@pytest.mark.parametrize(
    "value",
    [
        None,
        (1, 2.5, "é\n", True, (), ((1,), (2, (3,)))),
        {"a": (1, 2), "b": {"c": None}},
        {"": 1, "x": 2},
        {(1, "a"): "pair", 3: {4, 5}},
        [1, [2, (3,)], {"k": [4]}],
        {"empty": {}, "list": [], "set": set[int]()},
        Point(x=0.1, names=("a", "b"), inner=Point(x=math.inf)),
        {"points": (Point(x=1.0), Point(x=2.0)), "by": {("p",): Point(x=-0.0)}},
    ],
)
def test_what_is_read_equals_what_was_written(value: object) -> None:
    found = from_json(to_json(value, POINTS), POINTS)
    assert found == value
    assert repr(found) == repr(value)


@pytest.mark.parametrize("name", UNLIKE)
def test_outlines_of_unlike_models(name: str) -> None:
    program = build(name)
    if program.native is None or not program.native.definitions:
        pytest.skip("machine code is switched off")
    written = outline(program.module, program.native, program.states)
    if written.native.refused:
        with pytest.raises(TypeError, match="NotNative"):
            to_json(written, KINDS)
        return
    found = from_json(to_json(written, KINDS), KINDS)
    assert isinstance(found, Outline)
    assert found == written
    said = from_json(to_json(facts(program), KINDS), KINDS)
    assert isinstance(said, Facts)
    assert said == facts(program)


@pytest.mark.parametrize(
    "text",
    [
        '{"": "Path", "x": 1}',
        '{"": "Point"}',
        '{"": "Point", "x": 1, "y": 2}',
        '{"": ["Point"], "x": 1}',
        '{"": "dict", "of": [1]}',
        '{"": "list"}',
        "{",
    ],
)
def test_a_foreign_text_gives_no_value(text: str) -> None:
    with pytest.raises((TypeError, ValueError, KeyError)):
        from_json(text, POINTS)


def test_what_has_no_form_is_refused() -> None:
    with pytest.raises(TypeError, match="has no form"):
        to_json({"x": object()}, POINTS)
    with pytest.raises(TypeError, match="has no form"):
        to_json(Point(x=1.0), {})
