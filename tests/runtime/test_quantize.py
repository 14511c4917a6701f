"""Packed models: what they compute, how far that is from the model itself, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

import llmc
from llmc.compiler.native.formats import Quantize, Rule, choose_formats
from llmc.compiler.parameters import leaves
from llmc.compiler.plan import parameter_path
from llmc.compiler.program import native_is_on
from llmc.kernels.tolerance import error_ratio
from llmc.runtime.model import LanguageModel
from llmc.runtime.native.packing import unpack
from llmc.runtime.native.toolchain import NoCompiler, compiler
from llmc.runtime.packed_folder import write_packed
from llmc.runtime.storage import operand_name
from llmc.runtime.tree import assign
from llmc.specs.diagnostics import LlmcError
from llmc.specs.packaged import packaged_folder

from ..switches import only_with_passes
from ..tools.command_line import child

TEXT = "And God said, Let there be light: and there was light. And God saw the light, that it was good: " * 3
PARAMS = {
    "num_layers": 2,
    "hidden_size": 96,
    "num_heads": 6,
    "num_kv_heads": 2,
    "intermediate_size": 160,
    "vocab_size": 97,
    "max_seq_len": 64,
}


@pytest.fixture(autouse=True)
def _needs_a_compiler() -> None:
    if not native_is_on():
        pytest.skip("machine code is switched off")
    try:
        compiler()
    except NoCompiler as reason:
        pytest.skip(str(reason))


def small(quantize: str | None = None) -> LanguageModel:
    return llmc.load(packaged_folder() / "models" / "small", dtype="float32", quantize=quantize)


def logits(model: LanguageModel, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return cast("Tensor", model(tokens)).double()


@pytest.mark.parametrize(("quantize", "most"), [("int8", 1e-3), ("int4", 5e-2)])
def test_a_trained_model_loses_little(quantize: str, most: float) -> None:
    model = small()
    assert model.tokenizer is not None
    tokens = torch.tensor([model.tokenizer.encode(TEXT)[:120]])
    full, packed = logits(model, tokens), logits(small(quantize), tokens)
    divergence = (full.softmax(-1) * (full.log_softmax(-1) - packed.log_softmax(-1))).sum(-1).mean()
    assert 0 < float(divergence) < most


@pytest.mark.parametrize("quantize", ["int8", "int4", "ternary"])
def test_a_token_alone_and_in_a_batch_give_the_same(quantize: str) -> None:
    model = llmc.load("llama", params=PARAMS, quantize=quantize)
    tokens = torch.randint(0, 97, (3, 20), generator=torch.Generator().manual_seed(0))
    whole, cache = logits(model, tokens), model.new_cache(3)
    steps = [cast("Tensor", model(tokens[:, at : at + 1], cache=cache)) for at in range(20)]
    assert torch.allclose(torch.cat(steps, dim=1).double(), whole, atol=2e-5)


def test_packed_models_generate_and_have_no_parameters() -> None:
    model = llmc.load("llama", params=PARAMS, quantize="int8")
    assert len(model.generate([1, 2, 3], max_new_tokens=8, ignore_eos=True).tokens) == 8
    with pytest.raises(LlmcError, match="E0859"):
        list(model.parameters())
    with pytest.raises(LlmcError, match="E0859"):
        model.state_dict()


def test_rules_choose_formats_by_path() -> None:
    only_with_passes()
    program = llmc.build("llama", PARAMS)
    formats = choose_formats(program.module, "int4", [Rule("*.down_proj.*", "int8"), Rule("*.self_attn.*", "none")])
    assert formats["layer"] == {"mlp_gate_up_proj_weight": "int4", "mlp_down_proj_weight": "int8"}
    assert formats["exit"] == {"lm_head_weight": "int4"}
    assert choose_formats(program.module, "ternary")["exit"] == {"lm_head_weight": "int8"}


def test_rules_may_not_tell_equal_layers_apart() -> None:
    program = llmc.build("llama", PARAMS)
    with pytest.raises(LlmcError, match="E0860"):
        choose_formats(program.module, "int8", [Rule("*.layers.0.mlp.*", "none")])


def test_a_format_that_does_not_exist() -> None:
    with pytest.raises(LlmcError, match="E0855"):
        llmc.load("llama", params=PARAMS, quantize="int3")


def test_without_machine_code_there_is_no_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMC_NATIVE", "0")
    with pytest.raises(LlmcError, match="E0861"):
        llmc.load("llama", params=PARAMS, quantize="int8")


@pytest.mark.parametrize("quantize", ["int8", "int4", "ternary"])
def test_a_built_folder_loads_without_the_original(quantize: str, tmp_path: Path) -> None:
    original = packaged_folder() / "models" / "small"
    folder = tmp_path / "packed"
    built = child("build", str(original), "--quantize", quantize, "-o", str(folder))
    assert built.returncode == 0, built.stderr
    assert f"{quantize}: logit KL " in built.stdout
    packed, direct = llmc.load(folder), llmc.load(original, quantize=quantize)
    assert packed.tokenizer is not None
    tokens = torch.tensor([packed.tokenizer.encode(TEXT)[:40]])
    assert torch.equal(logits(packed, tokens), logits(direct, tokens))
    assert (folder / "model.safetensors").stat().st_size < (original / "model.safetensors").stat().st_size
    with pytest.raises(LlmcError, match="E0855"):
        llmc.load(folder, dtype="float32")


def test_packed_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    original = packaged_folder() / "models" / "small"
    assert child("build", str(original), "--quantize", "int8", "-o", str(folder)).returncode == 0
    with pytest.raises(LlmcError, match="E0753"):
        llmc.load("llama", weights=folder, params={**PARAMS, "vocab_size": 2048})


def test_packing_needs_weights(tmp_path: Path) -> None:
    found = child("build", "llama", "--quantize", "int8", "-o", str(tmp_path / "out"))
    assert found.returncode == 1
    assert "E0708" in found.stderr


MIXTURE = {**PARAMS, "num_layers": 1, "num_experts": 5, "sliding_window": None}


def test_rules_reach_experts_and_leave_the_router() -> None:
    only_with_passes()
    program = llmc.build("mixtral", MIXTURE)
    matrices = "layers_block_sparse_moe_experts"
    found = choose_formats(program.module, "int4", [Rule("*.experts.down_proj", "int8")])
    stacks = {name.removeprefix(matrices): format for name, format in found["layer"].items() if "experts" in name}
    assert set(stacks.values()) == {"int4", "int8"}
    assert not any("gate_weight" in name or "router" in name for name in found["layer"])
    with pytest.raises(LlmcError, match="E0860"):
        choose_formats(program.module, "int4", [Rule("*.experts.up_proj", "int8")])


@pytest.mark.parametrize("quantize", ["int8", "int4", "ternary"])
def test_a_packed_mixture_is_the_one_of_its_unpacked_weights(quantize: Quantize, tmp_path: Path) -> None:
    """Alone and in a batch, up to the rounding of activations; and as it is read from a folder, bit for bit."""
    only_with_passes()
    packed, unpacked = (llmc.load("mixtral", params=MIXTURE, seed=1) for _ in range(2))
    write_packed(packed, quantize, tmp_path)
    executor = packed.packed_executor()
    for call in packed.program.module.calls:
        lowered = packed.program.module.definitions[call.definition]
        for operand in executor.native.definitions[call.definition].parameters:
            matrix = executor.binding.packed.get(operand_name(call, operand.placeholder))
            if matrix is None:
                continue
            formula = lowered.parameters[operand.placeholder]
            lies = {"is_pair": operand.is_pair, "is_in_out": operand.is_in_out}
            weight, first = unpack(executor.library, matrix, formula.shape, operand.format, **lies), 0
            for part in leaves(formula):
                rows = weight[first : first + part.shape[0]]
                assign(unpacked, parameter_path(call, part.node, part.name), torch.nn.Parameter(rows.clone()))
                first += part.shape[0]
    tokens = torch.randint(0, 97, (2, 20), generator=torch.Generator().manual_seed(0))
    whole, expected, cache = logits(packed, tokens), logits(unpacked, tokens), packed.new_cache(2)
    assert 0 < error_ratio(whole, expected) < 0.02
    steps = [cast("Tensor", packed(tokens[:, at : at + 1], cache=cache)) for at in range(20)]
    assert error_ratio(torch.cat(steps, dim=1), whole) < 2e-3
    read = llmc.load("mixtral", weights=tmp_path, params=MIXTURE)
    assert torch.equal(logits(read, tokens), whole)
    written = packed.generate([1, 2, 3], max_new_tokens=12, ignore_eos=True).tokens
    scores = logits(unpacked, torch.tensor([[1, 2, 3, *written[:-1]]]))[0, 2:]
    lost = scores.max(-1).values - scores.gather(-1, torch.tensor(written)[:, None])[:, 0]
    assert float(lost.max()) <= 0.02 * float(scores.std())
