"""What was loaded can be saved: transformers reads it back with the same logits, and so do we."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

import llmc

from .comparison import tolerance
from .reference import Golden, class_of, outputs_of, with_positions
from .running import named, require_golden, run_modules, run_program

UNSAVED = frozenset({"transformers_version", "_name_or_path", "_attn_implementation"})


def reread(folder: Path, golden: Golden) -> nn.Module:
    """The folder as transformers reads it; every tensor that it uses must come from there."""
    loaded, report = class_of(golden.family.model).from_pretrained(
        folder, attn_implementation="eager", experts_implementation="eager", output_loading_info=True
    )
    missing = {name for name in report["missing_keys"] if not is_derived(golden, name)}
    assert not missing - {"cls.predictions.bias"}, missing
    assert not report["unexpected_keys"]
    return with_positions(loaded.eval(), golden.family.first_position)


def is_derived(golden: Golden, name: str) -> bool:
    """Whether the config says the tensor, so that we do not save it and transformers makes it anew."""
    return bool(golden.family.derived) and name.endswith(golden.family.derived)


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_export_equals_the_reference(golden: Golden, tmp_path: Path) -> None:
    model = llmc.load(golden.folder)
    run_program(model, golden.tokens, **golden.inputs)
    model.save(tmp_path)
    with torch.no_grad():
        again = outputs_of(reread(tmp_path, golden)(golden.tokens, **golden.inputs), golden.family.spec)
    for name, value in again.items():
        assert torch.equal(value, golden.expected[name]), name
    ours = llmc.load(tmp_path)
    require_golden(golden, run_modules(ours, golden.tokens, **golden.inputs))
    require_golden(golden, run_program(ours, golden.tokens, **golden.inputs))


def test_export_keeps_files_and_tensors(golden: Golden, tmp_path: Path) -> None:
    llmc.load(golden.folder).save(tmp_path)
    saved, original = tensors_of(tmp_path), tensors_of(golden.folder)
    if golden.family.name == "bert_mlm_untied":
        del original["cls.predictions.bias"]  # which that model never reads
    elif not golden.family.derived:
        files = {file.name for file in golden.folder.glob("model*")}
        assert {file.name for file in tmp_path.glob("model*")} == files
    original = {name: tensor for name, tensor in original.items() if not is_derived(golden, name)}
    assert saved.keys() == original.keys()
    for name, tensor in original.items():
        assert torch.equal(saved[name], tensor), name


def test_export_keeps_the_config(golden: Golden, tmp_path: Path) -> None:
    llmc.load(golden.folder).save(tmp_path)
    ours, theirs = (transformers.AutoConfig.from_pretrained(f).to_dict() for f in (tmp_path, golden.folder))
    for key in theirs.keys() - UNSAVED:
        assert ours.get(key) == theirs[key], key


def test_a_fresh_model_can_be_exported(golden: Golden, tmp_path: Path) -> None:
    """Without a folder that was read, names and layout are the canonical ones."""
    model = llmc.load(golden.family.spec, params=dict(golden.family.params), seed=11)
    model.save(tmp_path)
    reference = reread(tmp_path, golden)
    with torch.no_grad():
        ours = named(model(golden.tokens, **golden.inputs))
        theirs = outputs_of(reference(golden.tokens, **golden.inputs), golden.family.spec)
    for name, value in theirs.items():
        assert (value - ours[name]).abs().max() < tolerance(value), name


def test_training_is_exported(golden: Golden, tmp_path: Path) -> None:
    """A changed parameter is saved as it is now, after the Program made views of it."""
    model = llmc.load(golden.folder)
    run_program(model, golden.tokens, **golden.inputs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.25)
    model.save(tmp_path)
    original = tensors_of(golden.folder)
    for name, tensor in tensors_of(tmp_path).items():
        assert torch.equal(tensor, original[name] * 1.25), name


CHECKS = (
    test_export_equals_the_reference,
    test_export_keeps_files_and_tensors,
    test_export_keeps_the_config,
    test_a_fresh_model_can_be_exported,
    test_training_is_exported,
)
"""For families whose goldens are made elsewhere."""
