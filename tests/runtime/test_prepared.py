"""Operands that kernels want packed: made once for all that read them, and the model keeps its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

import llmc
from llmc.compiler.pipeline import read
from llmc.compiler.program import Program, compile_model
from llmc.compiler.select import choose, request_of
from llmc.kernels import registry
from llmc.kernels.tolerance import assert_close
from llmc.runtime.execute import Executor
from llmc.runtime.model import LanguageModel
from llmc.runtime.storage import ParameterBinder, tensors_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

SPEC = """
llmc: 1
name: packed
params: {hidden_size: 20, vocab_size: 11}
blocks:
  square:
    in: [x]
    out: [y]
    nodes:
      y: {op: ternary_linear, in: x, features: hidden_size}
  layer:
    in: [x]
    out: [y]
    nodes:
      up: {op: ternary_linear, in: x, features: 70, bias: true}
      act: {op: activation, in: up, kind: silu}
      down: {op: ternary_linear, in: act, features: hidden_size}
      one: {block: square, in: down, share: mixed}
      two: {block: square, in: one, share: mixed}
      y: {op: add, in: [x, two]}
graph:
  in: tokens
  out: {logits: lm_head}
  nodes:
    embed_tokens: {op: embedding, in: tokens, rows: vocab_size, features: hidden_size}
    layers: {repeat: 2, block: layer, in: embed_tokens}
    lm_head: {op: linear, in: layers, features: vocab_size}
"""


def executor(model: LanguageModel, program: Program) -> Executor:
    bound = ParameterBinder(model, program).bind()
    return Executor(program, [tuple(tensors_of(operands)) for operands in bound])


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "packed.yaml"
    path.write_text(SPEC)
    return path


def test_a_program_for_a_gpu_runs_on_packed_weights(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "KERNELS", [one for one in registry.KERNELS if one.op == "ternary_linear"])
    model = llmc.load(spec, device=DEVICE, seed=1)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    tokens, position = (torch.tensor([[3, 1, 4, 1, 5]], device=DEVICE), torch.arange(5, device=DEVICE)[None])
    ambient = {"position": position, "lengths": torch.zeros(1, dtype=torch.int64, device=DEVICE)}
    program = compile_model(*read(spec), device="cuda:sm_90")
    packed = executor(model, program)
    expected = executor(model, model.program).run("prefill", {"tokens": tokens}, ambient, {})["logits"]
    for phase in ("prefill", "decode"):
        found = packed.run(phase, {"tokens": tokens}, ambient, {})["logits"]
        assert_close(phase, found, expected, tolerance=2e-5)
    step = packed.steps[1]
    made = [one for one in step.operands["decode"] if one.dtype == torch.uint8]
    assert len(made) == 4
    assert len({id(one) for one in made}) == 3, "the matrix that two nodes share is packed once"
    assert all(a is b for a, b in zip(step.operands["prefill"], step.operands["decode"], strict=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_parameters())


def test_what_other_nodes_read_too_is_not_prepared(spec: Path) -> None:
    program = compile_model(*read(spec), device="cuda:sm_90")
    node, site = next(
        (node, site)
        for lowered in program.module.definitions.values()
        for node, site in lowered.sites()
        if site.op.name == "ternary_linear"
    )
    request = request_of(node, site, "decode", program.target)
    assert [one.name for one in choose(site, request, use_kernels=True, own=frozenset({"weight"}))[0]] == [
        "triton_packed"
    ]
    serving, refused = choose(site, request, use_kernels=True)
    assert not serving
    assert refused == (("triton_packed", "its weight is not a parameter of this node alone"),)
