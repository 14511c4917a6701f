"""Stop strings: never shown in part, found however the text is cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.runtime.stopping import Stopping, StopWatch
from llmc.specs.diagnostics import LlmcError


class Pieces:
    """Token n is the n-th piece."""

    def __init__(self, pieces: list[str], rest: str = "") -> None:
        self.pieces = pieces
        self.rest = rest

    def push(self, id: int) -> str:
        return self.pieces[id]

    def flush(self) -> str:
        rest, self.rest = self.rest, ""
        return rest


def run(pieces: list[str], *stop: str, limit: int = 1000) -> tuple[str, str | None]:
    watch = StopWatch(Stopping(max_new_tokens=limit, stop=stop), Pieces(pieces))
    shown = ""
    for token in range(len(pieces)):
        shown += watch.push(token)
        if watch.finish_reason:
            return shown, watch.finish_reason
        assert not any(text in shown for text in stop)
    return shown + watch.finish(), watch.finish_reason


def test_stop_string_across_tokens() -> None:
    assert run(["He", "llo", "\nUs", "er", ": x", "y"], "\nUser:") == ("Hello", "stop")
    assert run(["Hello\nUse", "less"], "\nUser:") == ("Hello\nUseless", None)
    assert run(["a", "b"], limit=2) == ("ab", "length")
    assert run(["a", "b\n"], "\n\n", limit=2) == ("ab\n", "length")
    assert run(["aab"], "ab") == ("a", "stop")
    assert run(["a", "a", "b"], "ab") == ("a", "stop")


def test_held_text() -> None:
    watch = StopWatch(Stopping(max_new_tokens=9, stop=("END",)), Pieces(["xE", "N", "Q"]))
    assert [watch.push(0), watch.push(1), watch.push(2)] == ["x", "", "ENQ"]


@given(
    st.text("abc", max_size=30),
    st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(0, 30), max_size=8),
)
def test_cutting_does_not_matter(text: str, stop: list[str], cuts: list[int]) -> None:
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [text[a:b] for a, b in pairwise(edges)]
    assert run(pieces, *stop) == run(list(text), *stop)


def test_ids() -> None:
    stopping = Stopping(max_new_tokens=5, eos_ids=(2,), stop_ids=(3,))
    for token, reason in ((2, "eos"), (3, "stop")):
        watch = StopWatch(stopping, Pieces(["a", "b", "c", "d"], rest="\ufffd"))
        assert watch.push(0) == "a"
        assert watch.push(token) == "\ufffd"
        assert watch.finish_reason == reason
        with pytest.raises(RuntimeError):
            watch.push(0)
    watch = StopWatch(Stopping(max_new_tokens=1))
    assert watch.push(7) == ""
    assert watch.finish_reason == "length"
    watch = StopWatch(Stopping(max_new_tokens=1, eos_ids=(7,)))
    watch.push(7)
    assert watch.finish_reason == "eos"


def test_stop_string_completed_by_the_flush() -> None:
    watch = StopWatch(Stopping(max_new_tokens=1, stop=("a\ufffd",)), Pieces(["xa"], rest="\ufffd"))
    assert watch.push(0) == "x"
    assert watch.finish_reason == "stop"


@pytest.mark.parametrize(
    "wrong", [{"max_new_tokens": 0}, {"stop": ("",)}, {"stop": ("x" * 2000,)}, {"stop": ("x",) * 65}]
)
def test_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(LlmcError, match="E0857"):
        Stopping(**{"max_new_tokens": 1, **wrong})  # pyright: ignore[reportArgumentType]


def test_tokens_without_text_may_be_counted_at_once() -> None:
    stopping = Stopping(max_new_tokens=5, eos_ids=(9,), stop_ids=(8,))
    watch = StopWatch(stopping)
    assert watch.push_plain([1, 2, 9]) == watch.push_plain([8]) == 0
    assert watch.push_plain([1, 2, 3]) == 3
    assert watch.finish_reason is None
    assert watch.push_plain([4, 5, 6, 7]) == 2
    assert watch.finish_reason == "length"
    assert watch.push_plain([1]) == 0
    assert StopWatch(stopping, Pieces(["a"])).push_plain([1]) == 0
