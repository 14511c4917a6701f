"""Operands that kernels want packed: made once for all that read them, and the model keeps its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

import llmc
from llmc.compiler.native.formats import Quantize, choose_formats
from llmc.compiler.pipeline import read
from llmc.compiler.program import Program, compile_model
from llmc.compiler.select import choose, request_of
from llmc.kernels import registry
from llmc.kernels.tolerance import assert_close, error_ratio
from llmc.runtime.execute import TorchExecutor
from llmc.runtime.model import LanguageModel
from llmc.runtime.storage import ParameterBinder, tensors_of
from llmc.specs.diagnostics import LlmcError

from ..switches import only_with_kernels, only_with_passes

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


GATED = """
llmc: 1
name: packed
graph:
  in: tokens
  out: {logits: lm_head}
  nodes:
    embed_tokens: {op: embedding, in: tokens, rows: 11, features: 20}
    norm: {op: rms_norm, in: embed_tokens, eps: 1.0e-6}
    gate_proj: {op: linear, in: norm, features: 40}
    up_proj: {op: linear, in: norm, features: 40}
    act: {op: activation, in: gate_proj, kind: silu}
    gated: {op: mul, in: [act, up_proj]}
    down_proj: {op: linear, in: gated, features: 20}
    y: {op: add, in: [embed_tokens, down_proj]}
    lm_head: {op: linear, in: y, features: 11}
"""


def executor(model: LanguageModel, program: Program) -> TorchExecutor:
    bound = ParameterBinder(model, program).bind()
    return TorchExecutor(program, [tuple(tensors_of(operands)) for operands in bound])


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "packed.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def gated(tmp_path: Path) -> Path:
    path = tmp_path / "gated.yaml"
    path.write_text(GATED)
    return path


def test_a_program_for_a_gpu_runs_on_packed_weights(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_with_kernels()
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


@pytest.mark.parametrize(("quantize", "most"), [("int8", 0.03), ("int4", 0.3), ("ternary", 1.5)])
def test_matrices_of_a_gpu_are_packed(
    gated: Path, quantize: Quantize, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain and gated layers; the tokens' table and the norms stay as they are."""
    only_with_kernels()
    only_with_passes()
    monkeypatch.setattr(registry, "KERNELS", [one for one in registry.KERNELS if one.format])
    model = llmc.load(gated, device=DEVICE, seed=1)
    tokens, position = (torch.tensor([[3, 1, 4, 1, 5]], device=DEVICE), torch.arange(5, device=DEVICE)[None])
    ambient = {"position": position, "lengths": torch.zeros(1, dtype=torch.int64, device=DEVICE)}
    fused = compile_model(model.program.spec, model.program.model, device="cuda:sm_90")
    program = fused.packable()
    assert any(one.op == "rms_norm_linear" for choices in fused.kernels["decode"].values() for one in choices)
    formats = choose_formats(program.module, quantize)
    packed = program.packed(formats)
    chosen = {one.op: one.kernel for choices in packed.kernels["decode"].values() for one in choices}
    assert chosen["linear"].startswith("triton_int8" if quantize == "ternary" else f"triton_{quantize}")
    assert chosen["rms_norm_linear" if quantize == "ternary" else "gated_linear"] == f"triton_{quantize}"
    found, expected = (
        executor(model, one).run("prefill", {"tokens": tokens}, ambient, {}) for one in (packed, program)
    )
    assert 0 < error_ratio(found["logits"], expected["logits"]) < most


def test_a_matrix_without_a_kernel_for_its_format_is_told_of(spec: Path) -> None:
    program = compile_model(*read(spec), device="cuda:sm_90", dtype="float64")
    with pytest.raises(LlmcError, match="lm_head_weight of exit has no int8 kernel in prefill"):
        program.packed(choose_formats(program.module, "int8"))


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
