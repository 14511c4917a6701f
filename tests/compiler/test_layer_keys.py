"""Work that does not grow with depth: layers that expand to the same are expanded once, and change nothing by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest

from llmc.compiler import ops
from llmc.compiler.expand import expand
from llmc.compiler.layer_keys import LayerKeys
from llmc.compiler.ops.declaration import Value
from llmc.compiler.pipeline import read
from llmc.compiler.resolve import resolve
from llmc.compiler.spec import NodeSpec
from llmc.compiler.uses import Context
from llmc.specs.document import load_document

VARYING = (
    "albert", "chimera", "deepseek_v3", "gemma2", "gemma3", "gemma3n", "gpt2", "gpt_oss", "jamba", "modernbert",
    "qwen3_next", "rwkv7", "t5", "zamba2",
)  # fmt: skip


def without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer is expanded for itself."""

    def nothing(_keys: LayerKeys, _node: NodeSpec, _outer: Context) -> None:
        return None

    monkeypatch.setattr(LayerKeys, "of", nothing)


@pytest.mark.parametrize("name", VARYING)
def test_one_expansion_stands_for_equal_layers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = resolve(load_document(name), {}, "")
    shared = expand(spec)
    without_keys(monkeypatch)
    assert expand(spec) == shared


HEAD = """
llmc: 1
name: x
blocks:
{blocks}
graph:
  in: tokens
  nodes:
    embed: {{op: embedding, in: tokens, rows: 96, features: 32}}
    layers: {{block: {block}, repeat: 6, in: embed{more}}}
  out: layers
"""
LEAF = "  leaf: {in: x, nodes: {norm: {op: rms_norm, in: x, eps: 1e-5}}, out: norm}\n"


@pytest.mark.parametrize(
    ("blocks", "block", "more", "expanded"),
    [
        pytest.param(LEAF, "leaf", "", 1, id="nothing depends on the layer"),
        pytest.param(
            "  a: {in: x, nodes: {n: {op: rms_norm, in: x, eps: '1e-5 if layer % 3 else 1e-6'}}, out: n}\n", "a", "", 2,
            id="a field",
        ),
        pytest.param(
            "  a: {in: x, nodes: {n: {op: scale, in: x, factor: 1 / (layer + 1), when: layer > 9, else: x}}, out: n}\n",
            "a", "", 0, id="a field of a removed node",
        ),
        pytest.param(
            LEAF + "  b: {in: x, nodes: {y: {op: scale, in: x, factor: 2}}, out: y}\n",
            "\"${'leaf' if layer % 2 else 'b'}\"", "", 2, id="the block",
        ),
        pytest.param(
            "  a: {in: x, nodes: {y: {op: scale, in: x, factor: 2}, z: {op: scale, in: x, factor: 3}}, "
            "out: \"${'y' if layer < 2 else 'z'}\"}\n", "a", "", 4, id="an output",
        ),
        pytest.param(
            "  a: {in: x, nodes: {y: {op: scale, in: x, factor: 2}, z: {op: scale, in: y, factor: 3}, "
            "w: {op: scale, in: z, factor: 2, when: layer > 9, else: \"${'y' if layer % 2 else 'z'}\"}, "
            "v: {op: add, in: [w, z]}}, out: v}\n", "a", "", 6, id="what a removed node leaves",
        ),
        pytest.param(
            "  a: {in: x, params: {p: 'layer % 2 == 0'}, nodes: {n: {block: b, in: x, with: {q: p}}}, out: n}\n"
            "  b: {in: x, params: {q: false}, nodes: {y: {op: scale, in: x, factor: 2, when: q, else: x}}, out: y}\n",
            "a", "", 1, id="a param handed on",
        ),
        pytest.param(
            "  a: {in: x, nodes: {n: {block: leaf, in: x, repeat: 1 + layer % 2}}, out: n}\n" + LEAF, "a", "", 3,
            id="how often an inner block is repeated",
        ),
        pytest.param(
            "  a: {in: x, nodes: {n: {block: b, in: x, repeat: 2}}, out: n}\n"
            "  b: {in: x, nodes: {y: {op: scale, in: x, factor: layer + 1}}, out: y}\n", "a", "", 2,
            id="the layer of an inner repeat",
        ),
        pytest.param(LEAF, "leaf", ", overrides: [{at: layer == 4, set: {norm.eps: 1e-3}}]", 2, id="an override"),
        pytest.param(
            "  a: {in: x, nodes: {n: {block: leaf, in: x, share: \"s${layer % 2}\"}}, out: n}\n" + LEAF, "a", "", 2,
            id="the name of a share",
        ),
        pytest.param(
            "  a: {in: x, nodes: {n: {block: b, in: x, share: s}}, out: n}\n"
            "  b: {in: x, nodes: {y: {op: scale, in: x, factor: use + 1}}, out: y}\n", "a", "", 6, id="uses counted",
        ),
    ],
)  # fmt: skip
def test_only_layers_that_differ_are_expanded(
    blocks: str, block: str, more: str, expanded: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`expanded` counts the nodes beside the embedding."""
    file = tmp_path / "x.yaml"
    file.write_text(dedent(HEAD).format(blocks=blocks.rstrip("\n"), block=block, more=more))
    spec = resolve(load_document(file), {}, "")
    found: list[str] = []
    with monkeypatch.context() as patched:
        count_nodes(patched, found)
        shared = expand(spec)
    assert len(found) == expanded + 1, found
    without_keys(monkeypatch)
    assert expand(spec) == shared


def count_nodes(monkeypatch: pytest.MonkeyPatch, found: list[str]) -> None:
    """Notes the path of every op node that is expanded."""
    from llmc.compiler import expand as module

    node = module.Node

    def noted(*, path: str, **others: object) -> object:
        found.append(path)
        return node(path=path, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "Node", noted)


@pytest.mark.parametrize(
    ("name", "deep"),
    [
        ("llama", {"num_layers": 64}),
        ("gpt2", {"num_layers": 64}),
        ("deepseek_v3", {"num_layers": 128}),
        ("gemma3", {"num_layers": 96}),
    ],
)
def test_a_deeper_model_expands_no_more_nodes(
    name: str, deep: dict[str, Value], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    for params in ({}, deep):
        spec, found = resolve(load_document(name), params, ""), list[str]()
        with monkeypatch.context() as patched:
            count_nodes(patched, found)
            expand(spec)
        counts.append(len(found))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "phi", "mistral", "mamba"])
def test_shape_rules_are_asked_once_however_deep(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {depth: _count_infer(name, depth, monkeypatch) for depth in (2, 8, 64)}
    assert len(set(counts.values())) == 1, counts


def _count_infer(name: str, depth: int, monkeypatch: pytest.MonkeyPatch) -> int:
    calls = [0]

    def counted(op: ops.Op) -> ops.Op:
        def infer(fields: object, inputs: object) -> object:
            calls[0] += 1
            return op.infer(fields, inputs)  # type: ignore[arg-type]

        return replace(op, infer=infer)  # type: ignore[arg-type]

    index = {name: counted(op) for name, op in ops.OP_INDEX.items()}
    with monkeypatch.context() as patched:
        patched.setattr("llmc.compiler.resolve.OP_INDEX", index)
        read(name, {"num_layers": depth})
    return calls[0]
