"""Params: their order, and what may replace them from outside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llmc.compiler.ops.declaration import Value
from llmc.compiler.pipeline import read
from llmc.specs.diagnostics import Diagnostic, LlmcError

PARENT = Path(__file__).parents[1] / "bad" / "parent_decoder.yaml"


def mistakes(params: Mapping[str, Any], origin: str = "--set", target: str | Path = PARENT) -> tuple[Diagnostic, ...]:
    with pytest.raises(LlmcError) as caught:
        read(target, params, origin=origin)
    return caught.value.diagnostics


def test_an_override_flows_through_the_params_that_need_it() -> None:
    spec, _ = read(PARENT, {"hidden_size": 64})
    assert spec.environment["head_dim"] == 16
    assert spec.params["hidden_size"].origin == "override"
    assert spec.params["head_dim"].origin == "spec"


def test_an_override_may_replace_an_expression_by_a_number() -> None:
    assert read(PARENT, {"head_dim": 16})[0].environment["head_dim"] == 16


def test_params_may_stand_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("llmc: 1\nname: x\nextends: llama_tiny\nparams: {hidden_size: '${a + b}', a: '${b * 2}', b: 64}\n")
    assert read(path)[0].environment["hidden_size"] == 192


@pytest.mark.parametrize("origin", ["--set", "params="])
@pytest.mark.parametrize(
    ("name", "remedy"),
    [("hiden_size", 'did you mean "hidden_size"?'), ("layers", "num_layers"), ("", "hidden_size"), ("x\x1b[31m", "")],
)
def test_unknown_param_is_refused(name: str, remedy: str, origin: str) -> None:
    (diagnostic,) = mistakes({name: 1}, origin)
    assert diagnostic.code == "E0433"
    assert origin in diagnostic.message
    assert diagnostic.message.isprintable()
    assert remedy in (diagnostic.help or "")


@pytest.mark.parametrize(
    "value",
    ["64", 64.0, True, None, [64], {"a": 1}, float("nan"), float("inf"), 10**30, -(2**63), b"64", object, (64,)],
    ids=str,
)
def test_value_of_another_kind_is_refused(value: object) -> None:
    """The param is a whole number; null is a value, but no width."""
    found = mistakes({"hidden_size": value})
    assert {d.code for d in found} <= {"E0434", "E0207", "E0413"}
    assert "--set" in str([*(d.message for d in found), *(n.text for d in found for n in d.notes)])


@pytest.mark.parametrize(
    ("name", "value"),
    [("rms_norm_eps", "small"), ("attention_bias", 1), ("attention_bias", "true"), ("rope_scaling", 2)],
)
def test_kinds_of_other_params(name: str, value: Value) -> None:
    (diagnostic,) = mistakes({name: value}, target="llama_tiny")
    assert diagnostic.code == "E0434"
    assert diagnostic.help
    assert diagnostic.span is not None


def test_a_whole_number_serves_as_a_fraction() -> None:
    read("llama_tiny", {"rope_theta": 5000, "rms_norm_eps": 1})


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"num_kv_heads": 3}, "E0601"),
        ({"num_heads": 5}, "E0601"),
        ({"num_layers": -1}, "E0205"),
        ({"hidden_size": -32}, "E0205"),
        ({"hidden_size": 0}, "E0205"),
        ({"num_heads": 0}, "E0414"),
        ({"num_layers": 10**9}, "E0205"),
        ({"vocab_size": 10**18, "hidden_size": 10**6}, "E0601"),
    ],
)
def test_what_an_override_breaks_says_where_it_is_from(params: Mapping[str, Value], code: str) -> None:
    found = mistakes(params)
    assert found[0].code == code
    assert any("from --set: " in note.text for note in found[0].notes)


def test_all_wrong_params_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "llmc: 1\nname: x\nextends: llama_tiny\n"
        "params: {hidden_size: '${hiden}', num_heads: '${1 //}', vocab_size: '${1 // 0}',\n"
        "  max_seq_len: '${max_seq_len}'}\n"
    )
    found = mistakes({"rope_thet": 1.0}, target=path)
    assert sorted(d.code for d in found) == ["E0402", "E0412", "E0414", "E0431", "E0433"]


@pytest.mark.parametrize(
    ("declared", "shape"),
    [
        ("tokens", ("B", "T")),
        ("{tokens: {}}", ("B", "T")),
        ("{tokens: {shape: [B, 4, '${hidden_size}']}}", ("B", 4, 32)),
    ],
)
def test_inputs_of_the_graph(declared: str, shape: tuple[object, ...], tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        f"llmc: 1\nname: x\nparams: {{hidden_size: 32}}\ngraph:\n  in: {declared}\n"
        "  nodes: {embed: {op: embedding, in: tokens, rows: 96, features: hidden_size}}\n  out: embed\n"
    )
    (port,) = read(path)[0].inputs
    assert port.type.shape == shape
