"""One file of packed weights for CPU and GPU: what machine code packed, a GPU's program reads in its own layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import llmc
from llmc.compiler import program as program_module
from llmc.compiler.lowered import Module
from llmc.compiler.native.formats import Formats, Quantize
from llmc.compiler.program import compile_model, native_is_on
from llmc.kernels import registry
from llmc.kernels.tolerance import error_ratio
from llmc.runtime import user_cache
from llmc.runtime.checkpoint import open_checkpoint
from llmc.runtime.execute import TorchExecutor
from llmc.runtime.load import load_packed_by_cpu
from llmc.runtime.model import LanguageModel
from llmc.runtime.native.toolchain import NoCompiler, compiler
from llmc.runtime.packed_folder import fill_packed, packed_contents
from llmc.runtime.tree import assign
from llmc.specs.diagnostics import LlmcError
from llmc.specs.packaged import packaged_folder

from ..switches import only_with_passes
from ..tools.command_line import child

PARAMS = {
    "num_layers": 1, "hidden_size": 40, "num_heads": 5, "num_kv_heads": 1, "intermediate_size": 52, "vocab_size": 31,
    "max_seq_len": 32,
}  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _packing_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Needs a compiler; of the kernels for a GPU, those of packed matrices run, interpreted."""
    if not native_is_on():
        pytest.skip("machine code is switched off")
    try:
        compiler()
    except NoCompiler as reason:
        pytest.skip(str(reason))
    monkeypatch.setattr(registry, "KERNELS", [one for one in registry.KERNELS if one.packed_as])


def on_gpu(model: LanguageModel) -> LanguageModel:
    """The same spec for a GPU, without parameters."""
    return LanguageModel(compile_model(model.program.spec, model.program.model, device="cuda:sm_90"))


def logits(model: LanguageModel) -> Tensor:
    tokens = torch.tensor([[3, 1, 4, 1, 5]])
    ambient = {"position": torch.arange(5)[None], "lengths": torch.zeros(1, dtype=torch.int64)}
    cache = model.new_cache(1, 8)
    with torch.inference_mode():
        return model.executor().run("prefill", {"tokens": tokens}, ambient, cache.states)["logits"]


@pytest.mark.parametrize(
    ("spec", "quantize"), [("llama", "int8"), ("mixtral", "int4"), ("llama", "ternary"), ("trident", "ternary")]
)
def test_it_is_as_if_the_gpu_had_packed(spec: str, quantize: Quantize) -> None:
    """Bits of the packing itself are compared in the kernels' tests; here every matrix is found where it belongs."""
    model, twin = (llmc.load(spec, params=PARAMS, seed=1) for _ in range(2))
    packed_there = on_gpu(model)
    for path, parameter in twin.named_owned_parameters().items():
        assign(packed_there, path, parameter)
    packed_there.retie()
    expected = logits(packed_there)
    packed_there.pack(quantize)
    itself = logits(packed_there)
    tensors, matrices = packed_contents(model, lambda: model.pack(quantize))
    read = on_gpu(model)
    fill_packed(read, quantize, tensors, matrices, CPU)
    assert error_ratio(logits(read), itself) < 2e-3
    assert error_ratio(itself, expected) > 2e-3, "packing leaves its mark"
    with pytest.raises(LlmcError, match="E0859"):
        list(read.parameters())


def take_none(module: Module, formats: Formats) -> int:
    return 0


def test_norms_are_taken_into_ternary_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the last, which the head of 8 bits reads; the numbers are those of launches apart, bit by bit."""
    only_with_passes()
    weights = llmc.load("llama", params=PARAMS, seed=1).named_owned_parameters()
    found: list[Tensor] = []
    for taken in (2, 0):
        if not taken:
            monkeypatch.setattr(program_module, "fuse_norm_packed", take_none)
        model = on_gpu(llmc.load("llama", params=PARAMS))
        for path, parameter in weights.items():
            assign(model, path, parameter)
        model.retie()
        model.pack("ternary")
        executor = model.executor()
        assert isinstance(executor, TorchExecutor)
        names = [choice.op for one in executor.program.kernels["decode"].values() for choice in one]
        assert sum("rms_norm_linear" in name for name in names) == taken
        found.append(logits(model))
    assert torch.equal(*found)


def test_packed_weights_that_lack_a_matrix_or_have_another() -> None:
    model = llmc.load("llama", params=PARAMS)
    tensors, matrices = packed_contents(model, lambda: model.pack("int8"))
    others = {name: one for name, one in matrices.items() if name != ":lm_head_weight"}
    for changed in (others, {**others, ":lm_head_weight": matrices[":lm_head_weight"][:-64]}):
        with pytest.raises(LlmcError, match=r"E0753.*lm_head_weight"):
            fill_packed(on_gpu(model), "int8", tensors, changed, CPU)


def test_a_folder_for_a_gpu_is_built_without_one_and_serves_a_cpu_too(tmp_path: Path) -> None:
    original, folder = packaged_folder() / "models" / "small", tmp_path / "packed"
    built = child("build", str(original), "--quantize", "int8", "--device", "cuda:sm_90", "-o", str(folder))
    assert built.returncode == 0, built.stderr
    assert "linear=triton_int8" in built.stdout
    assert "triton_int8" in (folder / "program.py").read_text()
    model = llmc.load(folder)
    with open_checkpoint(folder) as checkpoint:
        held = {name: checkpoint.read(name) for name in checkpoint.entries}
    read = on_gpu(model)
    matrices = {name: one for name, one in held.items() if ":" in name}
    fill_packed(read, "int8", {name: one for name, one in held.items() if ":" not in name}, matrices, CPU)
    assert error_ratio(logits(read), logits(model)) < 0.05, "machine code rounds activations as well"


def test_a_second_load_onto_a_gpu_packs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_cache, "SETTLED_SECONDS", 0.0)
    llmc.load("llama", params=PARAMS, seed=1).save(tmp_path / "model")
    compiled = user_cache.cache_folder() / "objects"
    compiled.mkdir(parents=True, exist_ok=True, mode=0o700)
    (tmp_path / "cache" / "llmc").mkdir(parents=True)
    (tmp_path / "cache" / "llmc" / "objects").symlink_to(compiled)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    program = on_gpu(llmc.load(tmp_path / "model")).program

    def load() -> LanguageModel | None:
        with open_checkpoint(tmp_path / "model") as checkpoint:
            return load_packed_by_cpu(program, tmp_path / "model", checkpoint, "int8", CPU)

    first = load()

    def pack(*_: object, **__: object) -> None:
        pytest.fail("packed again")

    monkeypatch.setattr("llmc.runtime.native.binding.pack", pack)
    second = load()
    assert first is not None
    assert second is not None
    assert torch.equal(logits(first), logits(second))
    monkeypatch.setenv("LLMC_NATIVE", "0")
    assert load() is None, "the GPU packs"
