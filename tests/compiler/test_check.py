"""What `check` says beyond its code and place: remedies, and all mistakes of a run at once. And the table of codes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from llmc.compiler.check import check_structure
from llmc.compiler.ops import OPS
from llmc.compiler.ops.declaration import Op
from llmc.compiler.pipeline import read
from llmc.compiler.schema import node_schema, spec_schema
from llmc.specs.codes import CODES
from llmc.specs.diagnostics import Diagnostic, LlmcError
from llmc.specs.yaml_reader import read_yaml

ROOT = Path(__file__).parents[2]
SOURCES = ("compiler", "kernels", "runtime", "specs", "tools")

HEAD = (
    "llmc: 1\nname: x\ngraph:\n  in: tokens\n  nodes:\n    embed: {op: embedding, in: tokens, rows: 96, features: 32}\n"
)


def found_in(nodes: str, out: str = "head", extra: str = "") -> tuple[Diagnostic, ...]:
    text = HEAD + "".join(f"    {line}\n" for line in nodes.splitlines()) + f"  out: {out}\n{extra}"
    return tuple(check_structure(read_yaml(text, "x.yaml")))


@pytest.mark.parametrize(
    ("nodes", "remedy"),
    [
        ("head: {op: linear, in: embed, feature: 8}", 'did you mean "features"?'),
        ("head: {op: linear, in: embed, out_features: 8}", 'did you mean "features"?'),
        ("head: {op: linear, in: embed, dim: 8}", 'did you mean "features"?'),
        ("head: {op: linear, input: embed, features: 8}", 'did you mean "in"?'),
        ("head: {op: rmsnorm, in: embed}", 'did you mean "rms_norm"?'),
        ("head: {op: RMSNorm, in: embed}", 'did you mean "rms_norm"?'),
        ("head: {op: layernorm, in: embed}", 'did you mean "layer_norm"?'),
        ("head: {op: Dense, in: embed}", 'did you mean "linear"?'),
        ("head: {op: sdpa, in: embed}", 'did you mean "attention"?'),
        ("head: {op: residual, in: embed}", 'did you mean "add"?'),
        ("head: {op: gelu, in: embed}", "write op: activation, kind: gelu"),
        ("head: {op: moe, in: embed}", "op: router, then op: experts"),
        ("head: {op: activation, in: embed, kind: swiglu}", "op: mul"),
        ("head: {op: activation, in: embed, kind: gelu_fast}", 'did you mean "gelu_'),
        ("head: {op: rms_norm, in: embed, epsilon: 1e-5}", 'did you mean "eps"?'),
        ("head: {op: linear, in: embed, features: round_up(8, 16)}", "between quotes"),
        ("head: {op: linear, in: embed}", "add features: … (output width)"),
        ("head: {in: embed}", "op: NAME or block: NAME"),
        ("head: {ops: linear, in: embed, features: 8}", "ops: may be meant as that"),
    ],
)
def test_one_mistake_one_remedy(nodes: str, remedy: str) -> None:
    (diagnostic,) = found_in(nodes)
    assert remedy in (diagnostic.help or "")


def test_all_mistakes_are_told_in_source_order() -> None:
    found = found_in(
        "1st: {op: linear, in: embed, features: [8], bais: true}\nhead: {op: rmsnorm, in: embed}",
        extra="generatoin: {}\n",
    )
    assert [d.code for d in found] == ["E0301", "E0203", "E0201", "E0306", "E0201"]
    places = [(d.span.line, d.span.column) for d in found if d.span]
    assert places == sorted(places)


def test_notes_are_allowed_where_they_are_notes() -> None:
    assert not found_in("head: {op: linear, in: embed, features: 8, x-why: [1, {a: b}]}", extra="x-todo: later\n")


@pytest.mark.parametrize("op", [op for op in OPS if not op.is_internal], ids=lambda op: op.name)
def test_every_field_of_every_op_is_checked(op: Op) -> None:
    """Each field with a wrong kind is one E0203 or E0204 at its value."""
    schema = node_schema(op)
    for field in op.fields:
        wrong = "{a: {}}" if field.kind != "int_map" else "7"
        found = [d for d in found_in(f"head: {{op: {op.name}, {field.name}: {wrong}}}") if d.code != "E0202"]
        assert {d.code for d in found} <= {"E0203", "E0204"}, field.name
        assert found, field.name
        assert field.name in schema["properties"]  # type: ignore[operator]


def test_schema_uses_only_what_draft_07_knows() -> None:
    newer = {
        "unevaluatedProperties",
        "dependentRequired",
        "dependentSchemas",
        "prefixItems",
        "minContains",
        "$dynamicRef",
    }
    assert not newer & set(_keys(spec_schema()))


def _keys(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in cast("dict[str, object]", value).items():
            yield key
            yield from _keys(inner)
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            yield from _keys(inner)


def test_codes_and_sources_agree() -> None:
    """Every code that is raised is in the table, and every code of the table is raised."""
    files = [path for folder in SOURCES for path in (ROOT / folder).rglob("*.py") if not path.name.startswith("codes")]
    raised = {code for path in files for code in re.findall(r'"(E0\d{3})"(?!:)', path.read_text(encoding="utf-8"))}
    assert raised == set(CODES)


def test_every_code_is_tried_twice() -> None:
    """In files of wrong specs, or in tests. E0603 goes once every op can run."""
    files = [path for path in (ROOT / "tests").rglob("*") if path.suffix in (".py", ".yaml")]
    counts = Counter(code for path in files for code in re.findall(r"\bE0\d{3}\b", path.read_text(encoding="utf-8")))
    assert not {code: counts[code] for code in CODES if counts[code] < 2 and code < "E0703" and code != "E0603"}


def test_mistakes_of_every_stage_keep_their_file(tmp_path: Path) -> None:
    """A child's mistake is in the child, its parent's in the parent."""
    parent = tmp_path / "parent.yaml"
    parent.write_text(HEAD + "    head: {op: linear, in: embed, features: hiden}\n  out: head\nparams: {hidden: 8}\n")
    child = tmp_path / "child.yaml"
    child.write_text(
        "llmc: 1\nname: y\nextends: parent.yaml\ngraph: {nodes: {more: {op: scale, in: haed, factor: 2}}, out: more}\n"
    )
    with pytest.raises(LlmcError) as caught:
        read(child)
    assert {(Path(d.span.file).name, d.code) for d in caught.value.diagnostics if d.span} == {
        ("parent.yaml", "E0412"),
        ("child.yaml", "E0303"),
    }
