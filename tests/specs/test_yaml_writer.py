"""What is written reads back as equal values, whatever the text."""

from __future__ import annotations

import math
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.specs.document import load_document
from llmc.specs.packaged import packaged_names
from llmc.specs.source import plain
from llmc.specs.yaml_reader import read_yaml
from llmc.specs.yaml_writer import with_params, write_plain, write_yaml

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=12
)


@pytest.mark.parametrize("name", packaged_names())
def test_packaged_specs_read_back(name: str) -> None:
    root = load_document(name).root
    text = write_yaml(root)
    assert plain(read_yaml(text, "written")) == plain(root)
    assert write_yaml(read_yaml(text, "written")) == text


@given(st.dictionaries(TEXT, VALUES, min_size=1, max_size=4))
def test_any_values_read_back(values: dict[str, object]) -> None:
    assert plain(read_yaml(write_plain(values), "written")) == values


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "1e-5",
        "null",
        "~",
        "true",
        "yes",
        "a: b",
        "a #b",
        "- a",
        "${x}",
        "",
        " a",
        "a ",
        "\ufeff",
        "\x85",
        "'",
        "<<",
    ],
)
def test_texts_stay_texts(text: str) -> None:
    assert plain(read_yaml(write_plain({"a": text, "b": [text], text or "c": 1}), "written")) == {
        "a": text,
        "b": [text],
        text or "c": 1,
    }


def test_floats_stay_floats() -> None:
    values = {"a": 1e-5, "b": 1e16, "c": 10000.0, "d": math.inf, "e": -math.inf, "f": -0.0, "g": 5e-324}
    found = plain(read_yaml(write_plain(values), "written"))
    assert found == values
    assert all(type(value) is float for value in cast("dict[str, object]", found).values())


def test_params_are_replaced() -> None:
    root = load_document("llama_tiny").root
    changed = read_yaml(write_yaml(with_params(root, {"num_layers": 1, "rope_scaling": "llama3"})), "written")
    before, after = cast("dict[str, object]", plain(root)), cast("dict[str, object]", plain(changed))
    params = cast("dict[str, object]", before["params"])
    assert after == {**before, "params": {**params, "num_layers": 1, "rope_scaling": "llama3"}}
