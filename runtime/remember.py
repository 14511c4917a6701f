"""Gathers what is kept of a model that was just loaded, so that the next process need not compile it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..compiler.native.formats import UNPACKED, Formats
from ..compiler.native.outline import outline
from ..compiler.native.source import NativeProgram
from ..specs.document import Document
from .basis import Basis, basis
from .checkpoint import Checkpoint, Entry, open_checkpoint
from .mapped_file import Stored
from .model import LanguageModel
from .own_sources import PACKAGE
from .packed_folder import packed_format, unpacked_paths
from .remembered import Made, Remembered
from .storage import ParameterBinder
from .weights import Recipe, recipes


@dataclass(frozen=True, slots=True)
class _Files:
    """Numbers the files that tensors lie in."""

    numbers: dict[str, int] = field(default_factory=dict[str, int])

    def stored(self, entry: Entry) -> Stored:
        number = self.numbers.setdefault(str(entry.file), len(self.numbers))
        dtype = str(entry.dtype).removeprefix("torch.")
        return Stored(file=number, begin=entry.begin, shape=entry.shape, dtype=dtype)


def remembered(model: LanguageModel, checkpoint: Checkpoint, packed_in: Path | None) -> Remembered | None:
    """What to keep of a model; None where torch runs a part of it.

    packed_in: the folder of the packed matrices, where they are not in the checkpoint itself.
    """
    program, source = model.program, model.source
    formats, native, weight_bytes = _code(model)
    if native is None or native.refused or not native.definitions or source is None:
        return None
    files, wanted = _Files(), _wanted(model, checkpoint, native, formats)
    entries = {path: [checkpoint.entries[name] for name in recipe.sources] for path, recipe in wanted.items()}
    plain = {path for path, recipe in wanted.items() if _is_plain(recipe, entries[path][0], program.target.dtype)}
    stored = {path: files.stored(entries[path][0]) for path in wanted if path in plain}
    made = {
        path: Made(recipe=recipe, sources=tuple(map(files.stored, entries[path])))
        for path, recipe in wanted.items()
        if path not in plain
    }
    packed = {name: files.stored(entry) for name, entry in _packed(checkpoint, packed_in).items()}
    return Remembered(
        facts=model.facts,
        outline=outline(program.module, native, program.states),
        dtype=program.target.dtype,
        quantize=model.quantize,
        formats=formats,
        weight_bytes=weight_bytes,
        files=tuple(files.numbers),
        stored=stored,
        made=made,
        packed=packed,
        ties=program.weights.ties,
        folder=str(source),
        layout=model.layout,
        eos_ids=model.folder_eos_ids,
        repetition_penalty=model.folder_repetition_penalty,
        decoder_start_id=model.folder_decoder_start_id,
        has_tokenizer=model.tokenizer is not None,
    )


def _code(model: LanguageModel) -> tuple[Formats, NativeProgram | None, int]:
    """The formats of its matrices, its code, and the bytes of the parameters that it stands for."""
    if model.quantize is None:
        size = sum(one.nbytes for one in ParameterBinder(model, model.program).tensors())
        return UNPACKED, model.program.native, size
    executor = model.packed_executor()
    return executor.formats, executor.native, executor.weight_bytes


def _wanted(
    model: LanguageModel, checkpoint: Checkpoint, native: NativeProgram, formats: Formats
) -> Mapping[str, Recipe]:
    """The parameters that the code reads, and how the checkpoint gives them."""
    weights = model.program.weights
    if packed_format(checkpoint) is not None:
        held = [path for path in checkpoint.entries if ":" not in path]
        return {path: Recipe(path=path, spec=weights.parameters[path], sources=(path,), rule=None) for path in held}
    found = recipes(weights, checkpoint.entries)
    if model.quantize is None:
        return found
    return {path: found[path] for path in unpacked_paths(model.program, native, formats)}


def _packed(checkpoint: Checkpoint, packed_in: Path | None) -> Mapping[str, Entry]:
    if packed_in is None:
        return {name: entry for name, entry in checkpoint.entries.items() if ":" in name and packed_format(checkpoint)}
    with open_checkpoint(packed_in) as packed:
        return packed.entries


def _is_plain(recipe: Recipe, entry: Entry, dtype: str) -> bool:
    """Whether the parameter is a tensor of the checkpoint as it lies there."""
    is_same = entry.shape == recipe.spec.shape and entry.dtype == getattr(torch, dtype)
    return is_same and not recipe.spec.is_transposed and (recipe.rule is None or recipe.rule.how == "rename")


def basis_of(
    document: Document, folders: Iterable[Path], kept: Remembered, started: float, packed_in: Path | None
) -> Basis:
    """What a model rests on that was loaded from `started` on. Raises Unsettled where that is too new.

    folders: those that were named or found in a manifest; packed_in: the folder of llmc's cache with packed matrices.
    """
    found = dict.fromkeys(path.absolute() for path in folders)
    inside = {str(folder.resolve()) for folder in found}
    outside = [Path(file) for file in kept.files if str(Path(file).parent) not in inside]
    cached = [file for file in outside if packed_in is not None and file.parent == packed_in.resolve()]
    files = [file for file in outside if file not in cached]
    for file, extended in zip(document.files, (*document.files[1:], None), strict=True):
        if not file.is_relative_to(PACKAGE):
            beside = None if extended is None else file.parent / extended.name
            files += [file] if beside is None or beside == file else [file, beside]
    return basis(files, found, started=started, cached=cached)
