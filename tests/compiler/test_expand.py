"""What the other constructs of the language expand to: when and else, shares, params of blocks, references."""

from __future__ import annotations

import pytest

from llmc.compiler.plan import parameters

from .written_specs import Specs, fields, paths


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
