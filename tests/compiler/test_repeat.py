"""What repeats expand to: calls, definitions, what is carried and collected, fields of single layers, scalars."""

from __future__ import annotations

import pytest

from llmc.specs.diagnostics import LlmcError

from .written_specs import LAYER, Specs, fields, paths


def test_a_repeat_is_one_definition_and_a_call_for_each_layer(spec: Specs) -> None:
    model = spec("layers: {block: layer, repeat: num_layers, in: embed}")
    assert list(model.definitions) == ["entry", "layer"]
    assert [call.binding.prefix for call in model.calls] == ["", "layers.0", "layers.1", "layers.2", "layers.3"]
    assert [call.inputs for call in model.calls[1:3]] == [{"x": "embed:out"}, {"x": "layers.0:out"}]
    assert model.outputs == {"out": "layers.3:out"}


def test_several_ports_are_carried_by_their_names(spec: Specs) -> None:
    blocks = """
pair:
  in: [x, residual]
  nodes:
    sum: {op: add, in: [x, residual]}
    proj: {op: linear, in: sum, features: hidden_size}
  out: {residual: sum, x: proj}
"""
    model = spec("layers: {block: pair, repeat: 3, in: [embed, embed]}", blocks, out='"layers:x"')
    assert model.calls[2].inputs == {"x": "layers.0:x", "residual": "layers.0:residual"}


def test_an_input_that_is_not_carried_is_the_same_for_every_layer(spec: Specs) -> None:
    blocks = """
layer:
  in: [x, start]
  nodes: {sum: {op: add, in: [x, start]}}
  out: {x: sum}
"""
    model = spec("layers: {block: layer, repeat: 3, in: [embed, embed]}", blocks)
    assert [call.inputs["start"] for call in model.calls[1:]] == ["embed:out"] * 3
    assert [call.inputs["x"] for call in model.calls[1:]] == ["embed:out", "layers.0:x", "layers.1:x"]


def test_an_input_may_be_another_one_in_each_layer(spec: Specs) -> None:
    blocks = """
layer:
  in: [x, table]
  nodes: {sum: {op: add, in: [x, table]}}
  out: {x: sum}
"""
    model = spec(
        """
far: {op: scale, in: embed, factor: 2}
layers: {block: layer, repeat: 4, in: [embed, "${'far' if layer % 2 else 'embed'}"]}
""",
        blocks,
    )
    assert [call.inputs["table"] for call in model.calls[1:]] == ["embed:out", "far:out", "embed:out", "far:out"]
    assert len(model.definitions) == 2


def test_other_outputs_are_collected_in_order(spec: Specs) -> None:
    blocks = """
layer:
  in: x
  nodes:
    proj: {op: linear, in: x, features: hidden_size}
    narrow: {op: linear, in: proj, features: 8}
  out: {x: proj, seen: narrow}
"""
    model = spec(
        """
layers: {block: layer, repeat: 3, in: embed}
all: {op: concat, in: "layers:seen"}
last: {op: scale, in: "layers:x", factor: 2}
""",
        blocks,
        out="{all: all, last: last}",
    )
    (exit_call,) = (call for call in model.calls if call.definition == "exit")
    assert [*exit_call.inputs.values()][:3] == ["layers.0:seen", "layers.1:seen", "layers.2:seen"]
    assert model.types["all:out"].shape == ("B", "T", 24)


@pytest.mark.parametrize("count", ["0", "num_layers - 4", "floor(0.5)"])
def test_a_repeat_of_zero_passes_its_input_on(spec: Specs, count: str) -> None:
    model = spec(
        f'layers: {{block: layer, repeat: "{count}", in: embed}}\nhead: {{op: scale, in: layers, factor: 2}}',
        out="head",
    )
    assert paths(model) == ["embed", "head"]


def test_a_repeat_of_one(spec: Specs) -> None:
    assert paths(spec("layers: {block: layer, repeat: 1, in: embed}"))[1:] == [
        "layers.0.norm", "layers.0.proj", "layers.0.sum",
    ]  # fmt: skip


def test_nested_repeats_are_written_out_inside_a_definition(spec: Specs) -> None:
    blocks = LAYER + "\ngroup:\n  in: x\n  nodes: {inner: {block: layer, repeat: 2, in: x}}\n  out: inner\n"
    model = spec("layers: {block: group, repeat: 3, in: embed}", blocks)
    assert len(model.calls) == 4
    assert len(model.definitions) == 2
    assert paths(model)[1:7] == [f"layers.0.inner.{i}.{name}" for i in range(2) for name in ("norm", "proj", "sum")]


def test_an_inner_layer_is_the_inner_one(spec: Specs) -> None:
    blocks = """
leaf: {in: x, params: {outer: 0}, nodes: {s: {op: scale, in: x, factor: 10 * outer + layer}}, out: s}
group: {in: x, params: {mine: layer}, nodes: {inner: {block: leaf, repeat: 2, in: x, with: {outer: mine}}}, out: inner}
"""
    model = spec("layers: {block: group, repeat: 2, in: embed}", blocks)
    assert fields(model, "inner.0.s", "factor") == [0.0, 10.0]
    assert fields(model, "inner.1.s", "factor") == [1.0, 11.0]


def test_a_pattern_picks_the_block_of_each_layer(spec: Specs) -> None:
    blocks = (
        LAYER
        + "\nwide:\n  in: x\n  nodes: {proj: {op: linear, in: x, features: hidden_size, bias: true}}\n  out: proj\n"
    )
    model = spec(
        "layers: {block: '${layer_types[layer]}', repeat: len(layer_types), in: embed}",
        blocks,
        params="layer_types: [layer, wide, layer, wide, wide]",
    )
    assert [call.definition for call in model.calls[1:]] == ["layer", "wide", "layer", "wide", "wide"]
    dense = spec("layers: {block: \"${'layer' if layer < 1 else 'wide'}\", repeat: 3, in: embed}", blocks)
    assert [call.definition for call in dense.calls[1:]] == ["layer", "wide", "wide"]


def test_two_repeats_of_one_block_share_its_definition(spec: Specs) -> None:
    model = spec(
        "layers: {block: layer, repeat: 2, in: embed}\nmore: {block: layer, repeat: 3, in: layers}", out="more"
    )
    assert list(model.definitions) == ["entry", "layer"]
    assert len(model.calls) == 6
    assert model.calls[3].inputs == {"x": "layers.1:out"}


ANY_WIDTH = """
any_width:
  in: x
  nodes:
    norm: {op: rms_norm, in: x, eps: 1e-5}
    sum: {op: add, in: [x, norm]}
  out: sum
"""


def test_two_repeats_of_one_block_at_two_widths_have_one_definition_each(spec: Specs) -> None:
    model = spec(
        """
narrow: {block: any_width, repeat: 2, in: embed}
widen: {op: linear, in: narrow, features: 48}
wide: {block: any_width, repeat: 2, in: widen}
shrink: {op: linear, in: wide, features: 32}
again: {block: any_width, repeat: 2, in: shrink}
""",
        ANY_WIDTH,
        out="again",
    )
    calls = {call.binding.prefix: call.definition for call in model.calls if call.binding.prefix}
    names = ["any_width"] * 2 + ["any_width_2"] * 2 + ["any_width"] * 2
    assert list(calls.values()) == names
    widths = [model.definitions[name].parameters["norm"][0].shape for name in ("any_width", "any_width_2")]
    assert widths == [(32,), (48,)]


def test_a_width_that_changes_within_a_repeat_is_a_mistake_at_any_of_its_widths(spec: Specs) -> None:
    changing = """
doubling:
  in: x
  nodes: {twice: {op: concat, in: [x, x]}}
  out: twice
"""
    with pytest.raises(LlmcError, match=r"E0602.*layers.1 gets x as \[B, T, 64\]"):
        spec("layers: {block: doubling, repeat: 2, in: embed}", changing)


def test_a_tap_reads_a_value_from_before_the_repeat(spec: Specs) -> None:
    model = spec("layers: {block: layer, repeat: 2, in: embed}\nhead: {op: add, in: [layers, embed]}", out="head")
    (exit_call,) = (call for call in model.calls if call.definition == "exit")
    assert set(exit_call.inputs.values()) == {"layers.1:out", "embed:out"}


@pytest.mark.parametrize(
    ("overrides", "definitions"),
    [
        ("[]", 1),
        ("[{at: layer == 1, set: {proj.bias: true}}]", 2),
        ("[{at: layer % 2 == 1, set: {proj.bias: true}}]", 2),
        ("[{at: layer == 0, set: {norm.eps: 1e-6}}, {at: layer == 3, set: {norm.eps: 1e-4}}]", 3),
        ("[{at: true, set: {proj.bias: true}}]", 1),
        ('[{at: "layer in [1, 2]", set: {proj.bias: layer == 1, norm.eps: 1e-6}}]', 3),
        ("[{at: layer >= 0, set: {norm.eps: 1e-5}}]", 1),
        ("[{at: layer >= 0, set: {norm.eps: '1e-5 * (layer + 1)'}}]", 4),
    ],
)
def test_overrides_make_as_many_definitions_as_differ(spec: Specs, overrides: str, definitions: int) -> None:
    model = spec(f"layers: {{block: layer, repeat: num_layers, in: embed, overrides: {overrides}}}")
    assert len(model.definitions) == 1 + definitions


def test_an_override_reaches_into_blocks_of_blocks(spec: Specs) -> None:
    blocks = LAYER + "\nouter:\n  in: x\n  nodes: {a.b: {block: layer, in: x}}\n  out: a.b\n"
    model = spec(
        "layers: {block: outer, repeat: 2, in: embed, overrides: [{at: layer == 1, set: {a.b.norm.eps: 1e-3}}]}", blocks
    )
    assert fields(model, "a.b.norm", "eps") == [1e-5, 1e-3]


def test_the_later_override_wins(spec: Specs) -> None:
    overrides = "[{at: true, set: {norm.eps: 1e-3}}, {at: layer == 1, set: {norm.eps: 1e-2}}]"
    model = spec(f"layers: {{block: layer, repeat: 2, in: embed, overrides: {overrides}}}")
    assert fields(model, "norm", "eps") == [1e-3, 1e-2]


def test_an_override_out_of_reach_is_a_mistake_unless_params_are_set_from_outside(spec: Specs) -> None:
    nodes = (
        "layers: {block: layer, repeat: num_layers, in: embed, overrides: [{at: layer == 3, set: {norm.eps: 1e-3}}]}"
    )
    assert spec.codes(nodes.replace("== 3", "== 4")) == ["E0508"]
    assert len(spec(nodes, given={"num_layers": 2}).definitions) == 2


def test_scalars_that_differ_are_operands(spec: Specs) -> None:
    blocks = "layer: {in: x, nodes: {s: {op: scale, in: x, factor: 0.5 * layer}}, out: s}"
    model = spec("layers: {block: layer, repeat: 4, in: embed}", blocks)
    assert len(model.definitions) == 2
    assert model.definitions["layer"].definition.scalars == (("s", "factor"),)
    assert fields(model, "s", "factor") == [0.0, 0.5, 1.0, 1.5]


def test_scalars_that_are_equal_are_constants(spec: Specs) -> None:
    blocks = "layer: {in: x, nodes: {s: {op: scale, in: x, factor: 0.5 * num_layers}}, out: s}"
    model = spec("layers: {block: layer, repeat: 4, in: embed}", blocks)
    assert model.definitions["layer"].definition.scalars == ()
