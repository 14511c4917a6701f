"""A mistake in what an expression gives shows the params that it reads, where they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmc.compiler.ops.declaration import Value
from llmc.compiler.pipeline import read
from llmc.specs.diagnostics import Diagnostic, LlmcError

BAD = Path(__file__).parent.parent / "bad"


def first(name: str, params: dict[str, Value] | None = None) -> Diagnostic:
    with pytest.raises(LlmcError) as caught:
        read(BAD / f"{name}.yaml", params)
    return caught.value.diagnostics[0]


def test_the_param_of_another_file_is_shown() -> None:
    found = first("tie_when_is_yes")
    assert [(note.text, str(note.span).split("bad/")[-1]) for note in found.notes] == [
        ("tied is written here", "tie_when_is_yes.yaml:5:16")
    ]


def test_an_expression_without_braces_is_written_with_them() -> None:
    assert first("param_bare_expression").help == (
        "under params: an expression stands in ${…}: num_layers: ${num_heads // 2}"
    )


def test_what_is_given_from_outside_is_not_sought_in_the_file() -> None:
    notes = first("parent_decoder", {"num_layers": 20_000}).notes
    assert [note.text for note in notes] == ["from params=: num_layers = 20000"]
