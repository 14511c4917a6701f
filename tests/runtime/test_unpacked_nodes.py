"""A node that has no code for its packed matrix reads it as it is; all others are packed, and one region stays one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

import llmc
from llmc.compiler.native import definition
from llmc.compiler.native.regions import Region
from llmc.compiler.ops.declaration import Value
from llmc.compiler.program import native_is_on
from llmc.kernels.native.kernel import NativeKernel
from llmc.kernels.native.node import NativeNode, NotNative
from llmc.kernels.native.registry import native_kernel
from llmc.runtime.model import LanguageModel
from llmc.runtime.native.toolchain import NoCompiler, compiler

from ..switches import only_with_passes
from ..tools.command_line import run

PARAMS: dict[str, Value] = {
    "vocab_size": 29, "hidden_size": 24, "intermediate_size": 40, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2,
    "max_seq_len": 16,
}  # fmt: skip
RULES = "weights: {quantize: [{match: '*.mlp.gate_proj.*', to: none}, {match: '*.mlp.up_proj.*', to: none}]}\n"
REASON = "it multiplies plain matrices alone"
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3]])


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainAlone(NativeKernel):
    """A kernel in C that has no packed form."""

    def emit(self, node: NativeNode) -> None:
        if node.weight("weight", is_pair=True).format == "int8":
            raise NotNative(REASON)
        NativeKernel.emit(self, node)


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gated product refuses packed matrices."""
    if not native_is_on():
        pytest.skip("machine code is switched off")
    try:
        compiler()
    except NoCompiler as reason:
        pytest.skip(str(reason))

    def planted(op: str) -> NativeKernel | None:
        found = native_kernel(op)
        if op != "gated_linear" or found is None:
            return found
        return PlainAlone(op=op, emitter=found.emitter, headers=found.headers, implied=found.implied)

    monkeypatch.setattr(definition, "native_kernel", planted)


def logits(model: LanguageModel) -> Tensor:
    with torch.no_grad():
        return cast("Tensor", model(TOKENS))


def test_the_others_are_packed_and_nothing_leaves_machine_code(tmp_path: Path) -> None:
    """It computes what it would, if the spec's rules said so."""
    only_with_passes()
    ruled = tmp_path / "ruled.yaml"
    ruled.write_text(f"llmc: 1\nname: ruled\nsummary: gate and up stay\nextends: llama\n{RULES}")
    expected = logits(llmc.load(ruled, params=PARAMS, seed=1, quantize="int8"))
    model = llmc.load("llama", params=PARAMS, seed=1, quantize="int8")
    executor = model.packed_executor()
    assert [type(part) for part in executor.outline.regions] == [Region]
    assert executor.native.unpacked == {"layer": {"mlp_gate_up_proj_weight": ("mlp.gated", REASON)}}
    assert "mlp_gate_up_proj_weight" not in executor.formats["layer"]
    assert "mlp_down_proj_weight" in executor.formats["layer"]
    assert torch.equal(logits(model), expected)


def test_build_and_explain_say_so_and_the_folder_holds_it(tmp_path: Path) -> None:
    only_with_passes()
    settings = [part for name, value in PARAMS.items() for part in ("--set", f"{name}={value}")]
    model = llmc.load("llama", params=PARAMS, seed=1)
    model.save(tmp_path / "whole")
    packing = ("--weights", tmp_path / "whole", "--quantize", "int8", "-o", tmp_path / "packed")
    built = run("build", "llama", *settings, *packing)
    assert built.exit_code == 0, built.output
    assert f"mlp.gated: {REASON}" in built.stdout
    assert "1 region" in built.stdout
    model.pack("int8")
    assert torch.equal(logits(llmc.load(tmp_path / "packed")), logits(model))
    told = run("explain", "llama", "mlp.gated", "--quantize", "int8", *settings)
    assert f"native, packed: {REASON}" in told.stdout
    assert REASON not in run("explain", "llama", "mlp.gated", *settings).stdout
