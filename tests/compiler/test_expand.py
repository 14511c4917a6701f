"""What the constructs of the language expand to: calls, definitions, wiring, shares and scalars."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import indent

import pytest

from llmc.compiler.ir import Model
from llmc.compiler.ops.declaration import Value
from llmc.compiler.pipeline import read
from llmc.compiler.plan import parameters
from llmc.specs.diagnostics import LlmcError

HEAD = """llmc: 1
name: x
params:
  hidden_size: 32
  num_layers: 4
{params}
blocks:
{blocks}
graph:
  in: tokens
  nodes:
    embed: {{op: embedding, in: tokens, rows: 96, features: hidden_size}}
{nodes}
  out: {out}
"""
LAYER = """
layer:
  in: x
  nodes:
    norm: {op: rms_norm, in: x, eps: 1e-5}
    proj: {op: linear, in: norm, features: hidden_size}
    sum: {op: add, in: [x, proj]}
  out: sum
"""


class Specs:
    """Writes specs into a folder of this test and reads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self,
        nodes: str,
        blocks: str = LAYER,
        out: str = "layers",
        params: str = "",
        given: Mapping[str, Value] | None = None,
    ) -> Model:
        path = self.folder / "x.yaml"
        text = HEAD.format(
            params=indent(params.strip("\n"), "  "),
            blocks=indent(blocks, "  "),
            nodes=indent(nodes.strip("\n"), "    "),
            out=out,
        )
        path.write_text(text)
        return read(path, given)[1]

    def codes(self, nodes: str, blocks: str = LAYER, out: str = "layers", params: str = "") -> list[str]:
        with pytest.raises(LlmcError) as caught:
            self(nodes, blocks, out, params)
        return [d.code for d in caught.value.diagnostics]


@pytest.fixture
def spec(tmp_path: Path) -> Specs:
    return Specs(tmp_path)


def paths(model: Model) -> list[str]:
    """Every op of the model in order, by its absolute path."""
    return [
        f"{call.binding.prefix}.{node.path}" if call.binding.prefix else node.path
        for call in model.calls
        for node in model.definitions[call.definition].definition.nodes
    ]


def fields(model: Model, path: str, field: str) -> list[Value]:
    """The field of the node at a relative path, call by call; an operand where it is one."""
    found: list[Value] = []
    for call in model.calls:
        for node in model.definitions[call.definition].definition.nodes:
            if node.path == path:
                found.append(call.binding.scalars.get((path, field), node.fields[field]))
    return found


# --- repeat -----------------------------------------------------------------------------------------------------


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


def test_a_tap_reads_a_value_from_before_the_repeat(spec: Specs) -> None:
    model = spec("layers: {block: layer, repeat: 2, in: embed}\nhead: {op: add, in: [layers, embed]}", out="head")
    (exit_call,) = (call for call in model.calls if call.definition == "exit")
    assert set(exit_call.inputs.values()) == {"layers.1:out", "embed:out"}


# --- fields of single layers ------------------------------------------------------------------------------------


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


# --- when and else ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "reads"), [(True, True, "b"), (True, False, "a"), (False, True, "b"), (False, False, "embed")]
)
def test_else_chains(spec: Specs, a: bool, b: bool, reads: str) -> None:
    nodes = f"""
a: {{op: scale, in: embed, factor: 2, when: {str(a).lower()}, else: embed}}
b: {{op: scale, in: a, factor: 3, when: {str(b).lower()}, else: a}}
head: {{op: scale, in: b, factor: 4}}
"""
    model = spec(nodes + "layers: {block: layer, in: head}")
    head = next(
        node
        for call in model.calls
        for node in model.definitions[call.definition].definition.nodes
        if node.path == "head"
    )
    assert str(next(iter(head.inputs.values()))) == f"{reads}:out"


def test_a_removed_block_leaves_no_parameters(spec: Specs) -> None:
    adapter = "adapter: {block: layer, in: embed, when: num_layers > 4, else: embed}"
    nodes = f"{adapter}\nlayers: {{block: layer, repeat: 1, in: adapter}}"
    assert not any("adapter" in path for path in parameters(spec(nodes)))
    assert "adapter.proj.weight" in parameters(spec(nodes, given={"num_layers": 5}))


def test_when_by_layer_makes_two_definitions(spec: Specs) -> None:
    blocks = """
layer:
  in: x
  nodes:
    proj: {op: linear, in: x, features: hidden_size}
    act: {op: activation, in: proj, kind: relu, when: layer % 2 == 0, else: proj}
  out: act
"""
    model = spec("layers: {block: layer, repeat: 4, in: embed}", blocks)
    assert [call.definition for call in model.calls[1:]] == ["layer", "layer_1", "layer", "layer_1"]


def test_a_removed_output_takes_its_else(spec: Specs) -> None:
    head = "head: {op: scale, in: layers, factor: 2, when: false, else: layers}"
    nodes = f"layers: {{block: layer, repeat: 2, in: embed}}\n{head}"
    assert spec(nodes, out="{logits: head}").outputs == {"logits": "layers.1:out"}


# --- share ------------------------------------------------------------------------------------------------------


def test_albert_shares_one_layer(spec: Specs) -> None:
    model = spec("layers: {block: layer, repeat: num_layers, share: albert.layer, in: embed}")
    assert sorted(parameters(model)) == ["albert.layer.norm.weight", "albert.layer.proj.weight", "embed.weight"]
    assert len(model.definitions) == 2


ZAMBA = """
mlp:
  in: x
  nodes:
    up: {op: linear, in: x, features: hidden_size}
    adapter: {op: linear, in: x, features: hidden_size}
    sum: {op: add, in: [up, adapter]}
  out: sum
shared: {in: x, nodes: {norm: {op: rms_norm, in: x, eps: 1e-5}, mlp: {block: mlp, in: norm}}, out: mlp}
layer:
  in: x
  nodes: {s: {block: shared, in: x, share: zamba, own: [OWN]}}
  out: s
"""


@pytest.mark.parametrize(
    ("own", "owned"),
    [
        ("mlp.adapter", ["layers.{}.s.mlp.adapter.weight"]),
        ("mlp", ["layers.{}.s.mlp.adapter.weight", "layers.{}.s.mlp.up.weight"]),
        ("norm, mlp.up", ["layers.{}.s.mlp.up.weight", "layers.{}.s.norm.weight"]),
        ("'*'", ["layers.{}.s.mlp.adapter.weight", "layers.{}.s.mlp.up.weight", "layers.{}.s.norm.weight"]),
    ],
)
def test_zamba_keeps_adapters_per_use(spec: Specs, own: str, owned: list[str]) -> None:
    model = spec("layers: {block: layer, repeat: 3, in: embed}", ZAMBA.replace("OWN", own))
    found = set(parameters(model))
    assert {path for path in found if path.startswith("layers")} == {path.format(i) for path in owned for i in range(3)}
    assert len([path for path in found if path.startswith("zamba")]) == 3 - len(owned)


def test_use_counts_the_uses_of_each_share(spec: Specs) -> None:
    blocks = """
leaf: {in: x, nodes: {s: {op: scale, in: x, factor: use}}, out: s}
layer: {in: x, nodes: {a: {block: leaf, in: x, share: "s${layer % 2}"}}, out: a}
"""
    model = spec("layers: {block: layer, repeat: 5, in: embed}", blocks)
    assert fields(model, "a.s", "factor") == [0.0, 0.0, 1.0, 1.0, 2.0]


def test_a_share_inside_an_inner_repeat_counts_too(spec: Specs) -> None:
    blocks = """
leaf: {in: x, nodes: {s: {op: scale, in: x, factor: use}}, out: s}
inner: {in: x, nodes: {a: {block: leaf, in: x, share: one}}, out: a}
layer: {in: x, nodes: {r: {block: inner, repeat: 2, in: x}}, out: r}
"""
    model = spec("layers: {block: layer, repeat: 2, in: embed}", blocks)
    assert fields(model, "r.0.a.s", "factor") == [0.0, 2.0]
    assert fields(model, "r.1.a.s", "factor") == [1.0, 3.0]


# --- params of blocks -------------------------------------------------------------------------------------------


def test_with_sets_params_of_a_block(spec: Specs) -> None:
    blocks = """
mlp:
  in: x
  params: {width: 4 * hidden_size, half: width // 2}
  nodes:
    up: {op: linear, in: x, features: width}
    mid: {op: linear, in: up, features: half}
    down: {op: linear, in: mid, features: hidden_size}
  out: down
"""
    model = spec("a: {block: mlp, in: embed}\nlayers: {block: mlp, in: a, with: {width: 2 * hidden_size}}", blocks)
    assert fields(model, "a.up", "features") == [128]
    assert fields(model, "a.mid", "features") == [64]
    assert fields(model, "layers.up", "features") == [64]
    assert fields(model, "layers.mid", "features") == [32]


def test_with_by_layer(spec: Specs) -> None:
    blocks = """
mlp:
  in: x
  params: {width: 8}
  nodes: {up: {op: linear, in: x, features: width}, down: {op: linear, in: up, features: hidden_size}}
  out: down
"""
    model = spec("layers: {block: mlp, repeat: 3, in: embed, with: {width: '[8, 16, 8][layer]'}}", blocks)
    assert [call.definition for call in model.calls[1:]] == ["mlp", "mlp_1", "mlp"]


# --- references -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", ["'parts:a'", "\"${'parts:' + 'a'}\"", '"${wanted}"'])
def test_ports_are_read_by_name(spec: Specs, reference: str) -> None:
    nodes = f"""
parts: {{op: split, in: embed, sizes: {{a: 8, b: 24}}}}
layers: {{op: linear, in: {reference}, features: 32}}
rest: {{op: linear, in: "parts:b", features: 32}}
use: {{op: add, in: [layers, rest]}}
end: {{block: layer, in: use}}
"""
    params = "wanted: 'parts:a'" if "wanted" in reference else ""
    assert "end.proj" in paths(spec(nodes, out="end", params=params))


def test_inputs_by_position_by_map_and_by_key_are_one(spec: Specs) -> None:
    forms = ("in: [embed, p]", "in: {a: embed, b: p}", "a: embed, b: p", "in: embed, b: p")
    models = [
        spec(f"p: {{op: scale, in: embed, factor: 2}}\ns: {{op: add, {form}}}\nlayers: {{block: layer, in: s}}")
        for form in forms
    ]
    wired = [next(n for n in m.definitions["entry"].definition.nodes if n.path == "s").inputs for m in models]
    assert all(found == wired[0] for found in wired)


def test_nodes_may_be_written_in_any_order(spec: Specs) -> None:
    model = spec("layers: {block: layer, in: twice}\ntwice: {op: scale, in: embed, factor: 2}")
    assert paths(model)[:2] == ["embed", "twice"]
