"""Specs that tests write from their parts, and how to look at what they expand to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import indent

import pytest

from llmc.compiler.ir import Model
from llmc.compiler.ops.declaration import Value
from llmc.compiler.pipeline import read
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
