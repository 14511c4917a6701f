"""The quick answer about a schema is never yes where jsonschema finds a mistake, and is yes for packaged specs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from jsonschema import Draft202012Validator

from llmc.compiler.legal import fits
from llmc.compiler.ops import OP_INDEX
from llmc.compiler.schema import BLOCK_NODE_SCHEMA, Schema, node_schema, structure_schema
from llmc.specs.diagnostics import LlmcError
from llmc.specs.document import load_document
from llmc.specs.packaged import packaged_names
from llmc.specs.source import plain

BAD = Path(__file__).parent.parent / "bad"


def parts(root: object) -> Iterator[tuple[Schema, object]]:
    """The whole with the schema of files, and each node with that of its op."""
    yield structure_schema(), root
    if not isinstance(root, dict):
        return
    spec = cast("dict[str, object]", root)
    blocks = spec.get("blocks")
    holders = [*cast("dict[str, object]", blocks).values()] if isinstance(blocks, dict) else []
    for holder in (*holders, spec.get("graph")):
        nodes = cast("dict[str, object]", holder).get("nodes") if isinstance(holder, dict) else None
        for node in cast("dict[str, object]", nodes).values() if isinstance(nodes, dict) else ():
            op = cast("dict[str, object]", node).get("op") if isinstance(node, dict) else None
            yield (node_schema(OP_INDEX[op]) if isinstance(op, str) and op in OP_INDEX else BLOCK_NODE_SCHEMA), node


def test_packaged_specs_are_legal_at_once() -> None:
    for name in packaged_names()[::7]:
        assert all(fits(schema, value) for schema, value in parts(plain(load_document(name).root))), name


def test_what_jsonschema_refuses_is_never_legal() -> None:
    refused = 0
    for path in sorted(BAD.glob("*.yaml")):
        try:
            root = plain(load_document(path).root)
        except LlmcError:
            continue
        for schema, value in parts(root):
            is_valid = Draft202012Validator(schema).is_valid(value)  # type: ignore[arg-type]
            assert is_valid or not fits(schema, value), path.name
            refused += not is_valid
    assert refused > 30


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "integer"}, True),
        ({"type": "integer"}, 1.5),
        ({"const": 1}, True),
        ({"enum": ["a", None]}, "b"),
        ({"minimum": 1}, 0),
        ({"required": ["a"]}, {"b": 1}),
        ({"properties": {"a": {"type": "string"}}}, {"a": 1}),
        ({"properties": {"a": {}}, "additionalProperties": False}, {"b": 1}),
        ({"patternProperties": {"^x-": {"type": "null"}}}, {"x-a": 1}),
        ({"items": {"type": "string"}}, ["a", 1]),
        ({"minItems": 1}, []),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, 3),
        ({"pattern": "a$"}, "ab"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}}, 1),
        ({"keyword of the future": 1}, 1),
    ],
)
def test_each_keyword_forbids(schema: Schema, value: object) -> None:
    assert not fits(schema, value)
