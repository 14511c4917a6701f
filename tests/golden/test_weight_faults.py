"""Any one tensor renamed, dropped, added, transposed or of an integer type is found, with the names that matter."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import llmc
from llmc.runtime.checkpoint import open_checkpoint
from llmc.runtime.model import LanguageModel
from llmc.runtime.weights import match_checkpoint
from llmc.specs.diagnostics import Diagnostic, LlmcError

from .conftest import Goldens
from .families import FAMILIES, by_name
from .reference import Golden

TIED = [family for family in FAMILIES if family.is_tied]
Tensors = dict[str, Tensor]
Fault = Callable[[Tensors, str], None]
UNREAD = frozenset({"cls.predictions.bias", "cls.predictions.decoder.bias"})
"""An untied BERT holds both and reads the second; old checkpoints hold the first only."""


def is_spare(golden: Golden, name: str) -> bool:
    """Whether the model can do without the tensor."""
    is_unread = golden.family.name == "bert_mlm_untied" and name in UNREAD
    return is_unread or (bool(golden.family.derived) and name.endswith(golden.family.derived))


def all_tensors(folder: Path) -> Tensors:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def misspelled(name: str) -> str:
    """A near name that no pattern of the spec knows."""
    parent, _, leaf = name.rpartition(".")
    return f"{parent}x.{leaf}"


def rename(tensors: Tensors, name: str) -> None:
    tensors[misspelled(name)] = tensors.pop(name)


def drop(tensors: Tensors, name: str) -> None:
    del tensors[name]


def add(tensors: Tensors, name: str) -> None:
    tensors[misspelled(name)] = tensors[name].clone()


def transpose(tensors: Tensors, name: str) -> None:
    tensors[name] = tensors[name].T.contiguous()


def lengthen(tensors: Tensors, name: str) -> None:
    tensors[name] = torch.cat([tensors[name], tensors[name][:1]])


def make_integer(tensors: Tensors, name: str) -> None:
    tensors[name] = tensors[name].to(torch.int8)


def diagnostics_of(model: LanguageModel, tensors: Mapping[str, Tensor], folder: Path) -> tuple[Diagnostic, ...]:
    """What matching says about a checkpoint, by the same function that `llmc.load` uses."""
    save_file(dict(tensors), folder / "model.safetensors")
    with pytest.raises(LlmcError) as found, open_checkpoint(folder) as checkpoint:
        match_checkpoint(model.program.weights, checkpoint)
    return found.value.diagnostics


def every(tensors: Tensors) -> Tensors:
    return tensors


def of_one_layer(tensors: Tensors) -> Tensors:
    """The last of those whose names differ in numbers only."""
    names = {re.sub(r"\d+", "#", name): name for name in tensors}
    return {name: tensors[name] for name in names.values()}


Choose = Callable[[Tensors], Tensors]
each_choice = pytest.mark.parametrize("choose", [of_one_layer, pytest.param(every, marks=pytest.mark.slow)])


def faults_of(
    golden: Golden, model: LanguageModel, folder: Path, fault: Fault, choose: Choose = every
) -> dict[str, dict[str, Diagnostic]]:
    """By tensor of those chosen, the diagnostics by code after a fault in it alone."""
    original = all_tensors(golden.folder)
    found: dict[str, dict[str, Diagnostic]] = {}
    for name, tensor in choose(original).items():
        is_square = tensor.dim() == 2 and tensor.shape[0] == tensor.shape[1]
        if is_spare(golden, name) or (fault is transpose and (tensor.dim() != 2 or is_square)):
            continue
        tensors = dict(original)
        fault(tensors, name)
        diagnostics = diagnostics_of(model, tensors, folder)
        found[name] = {diagnostic.code: diagnostic for diagnostic in diagnostics}
        assert len(found[name]) == len(diagnostics)
    assert found
    return found


def test_renamed(golden: Golden, model: LanguageModel, tmp_path: Path) -> None:
    for name, codes in faults_of(golden, model, tmp_path, rename).items():
        assert codes.keys() == {"E0703", "E0704"}, name
        assert repr(name) in codes["E0703"].message
        assert codes["E0703"].help == f'did you mean "{misspelled(name)}"?'
        assert repr(misspelled(name)) in codes["E0704"].message
        assert codes["E0704"].help == f'did you mean "{name}"?'


@each_choice
def test_dropped(golden: Golden, model: LanguageModel, tmp_path: Path, choose: Choose) -> None:
    for name, codes in faults_of(golden, model, tmp_path, drop, choose).items():
        assert codes.keys() == {"E0703"}, name
        assert repr(name) in codes["E0703"].message


@each_choice
def test_added(golden: Golden, model: LanguageModel, tmp_path: Path, choose: Choose) -> None:
    for name, codes in faults_of(golden, model, tmp_path, add, choose).items():
        assert codes.keys() == {"E0704"}, name
        assert repr(misspelled(name)) in codes["E0704"].message
        assert codes["E0704"].help == f'did you mean "{name}"?'


@each_choice
def test_transposed(golden: Golden, model: LanguageModel, tmp_path: Path, choose: Choose) -> None:
    original = all_tensors(golden.folder)
    for name, codes in faults_of(golden, model, tmp_path, transpose, choose).items():
        assert codes.keys() == {"E0705"}, name
        shape = list(original[name].shape)
        assert codes["E0705"].message.startswith(f"{name} is {shape[::-1]} in model.safetensors")
        assert codes["E0705"].message.endswith(f"expects {shape}")
        assert "transposed" in str(codes["E0705"].help)


@each_choice
def test_lengthened(golden: Golden, model: LanguageModel, tmp_path: Path, choose: Choose) -> None:
    for name, codes in faults_of(golden, model, tmp_path, lengthen, choose).items():
        assert codes.keys() == {"E0705"}, name
        assert codes["E0705"].message.startswith(f"{name} is ")


@each_choice
def test_of_integers(golden: Golden, model: LanguageModel, tmp_path: Path, choose: Choose) -> None:
    for name, codes in faults_of(golden, model, tmp_path, make_integer, choose).items():
        assert codes.keys() == {"E0706"}, name
        assert codes["E0706"].message.startswith(f"{name} is int8 in model.safetensors")


FAULTS: tuple[Fault, ...] = (rename, drop, add, transpose, make_integer)


def test_load_says_the_same(golden: Golden, model: LanguageModel, tmp_path: Path) -> None:
    """Through `llmc.load`, both of a spec and of the folder; families take the faults in turn."""
    require_load_says_the_same(golden, model, tmp_path, FAULTS[FAMILIES.index(golden.family) % len(FAULTS)])


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_load_says_the_same_of_each(golden: Golden, model: LanguageModel, tmp_path: Path, fault: Fault) -> None:
    require_load_says_the_same(golden, model, tmp_path, fault)


def require_load_says_the_same(golden: Golden, model: LanguageModel, tmp_path: Path, fault: Fault) -> None:
    tensors = all_tensors(golden.folder)
    name = next(n for n, t in tensors.items() if t.dim() == 2 and t.shape[0] != t.shape[1])
    fault(tensors, name)
    expected = diagnostics_of(model, tensors, tmp_path)
    (tmp_path / "config.json").write_bytes((golden.folder / "config.json").read_bytes())
    family = golden.family
    for attempt in (
        lambda: llmc.load(tmp_path),
        lambda: llmc.load(family.spec, weights=tmp_path, params=dict(family.params)),
    ):
        with pytest.raises(LlmcError) as found:
            attempt()
        assert found.value.diagnostics == expected


def test_the_same_fault_in_all_layers_is_one_row(goldens: Goldens, tmp_path: Path) -> None:
    golden = goldens(by_name("llama_tied_llama3"))
    tensors = all_tensors(golden.folder)
    for name in [n for n in tensors if n.endswith(("q_proj.weight", "up_proj.weight"))]:
        del tensors[name]
    found = diagnostics_of(llmc.load(golden.folder), tensors, tmp_path)
    assert [d.code for d in found] == ["E0703", "E0703"]
    assert "3 tensors: 'model.layers.{0-2}.mlp.up_proj.weight'" in found[0].message
    assert "3 tensors: 'model.layers.{0-2}.self_attn.q_proj.weight'" in found[1].message


def test_another_size_of_model(golden: Golden, model: LanguageModel) -> None:
    """One layer too many is missing tensors, one too few is unexpected ones."""
    family = golden.family
    if "num_groups" in family.params:
        pytest.skip("layers that share their weights fit any depth")
    per_layer = {
        name: value
        for name, value in family.params.items()
        if isinstance(value, list) and len(value) == family.num_layers
    }
    for change, code in ((1, "E0703"), (-1, "E0704")):
        if family.num_layers + change == 0:
            continue
        size = family.num_layers + change
        lists = {name: [*value, value[-1]][:size] for name, value in per_layer.items()}
        params = {**family.params, **lists, "num_layers": size}
        with pytest.raises(LlmcError) as found:
            llmc.load(family.spec, weights=golden.folder, params=params)
        has_tables_per_layer = "per_layer_size" in family.params
        assert {d.code for d in found.value.diagnostics} == {code} | ({"E0705"} if has_tables_per_layer else set())


@pytest.mark.parametrize("golden", TIED, ids=lambda family: family.name, indirect=True)
def test_a_tied_tensor_may_be_there_twice_if_equal(golden: Golden, model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((golden.folder / "config.json").read_bytes())
    tensors = all_tensors(golden.folder)
    (path, owner), *rest = model.program.weights.ties.items()
    assert not rest
    tensors[path] = tensors[owner].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    llmc.load(tmp_path)
    tensors[path][0, 0] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(LlmcError) as found:
        llmc.load(tmp_path)
    assert [d.code for d in found.value.diagnostics] == ["E0707"]
    assert path in found.value.diagnostics[0].message
