"""Makes a model of what was remembered of it: maps the weights, opens the code, binds one to the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..compiler.ir import Call
from ..compiler.parameters import leaves
from ..compiler.plan import parameter_path
from ..compiler.program import Program
from .mapped_file import MappedFile
from .model import LanguageModel
from .native.abi import open_library
from .native.executor import NativeExecutor
from .recalled import Recalled
from .remembered import Remembered
from .storage import Bound
from .tokenizer import folder_tokenizer
from .weight_rules import imported


def recalled_model(kept: Remembered, compile: Callable[[], Program]) -> LanguageModel:
    """The model, whose `program` is compiled where somebody asks for it. Raises NoCompiler where its code is gone and
    cannot be made again, OSError or ValueError where its weights are."""
    dtype: torch.dtype = getattr(torch, kept.dtype)
    with torch.inference_mode(False):
        files = [MappedFile(Path(file)) for file in kept.files]
        parameters = {path: files[stored.file].tensor(stored) for path, stored in kept.stored.items()}
        for path, made in kept.made.items():
            parts = [files[stored.file].tensor(stored) for stored in made.sources]
            parameters[path] = imported(made.recipe.rule, made.recipe.spec, parts).to(dtype)
        executor = NativeExecutor(
            kept.outline,
            open_library(kept.outline.native),
            _operands(kept, parameters),
            dtype=dtype,
            weight_bytes=kept.weight_bytes,
            formats=kept.formats,
            packed={name: files[stored.file].tensor(stored) for name, stored in kept.packed.items()},
        )
    recalled = Recalled(
        facts=kept.facts,
        executor=executor,
        dtype=dtype,
        quantize=kept.quantize,
        parameters=parameters if kept.quantize is None else {},
        compile=compile,
    )
    folder = Path(kept.folder)
    tokenizer = folder_tokenizer(folder, kept.facts.tokenizer) if kept.has_tokenizer else None
    model = LanguageModel(recalled, tokenizer=tokenizer)
    model.source, model.layout = folder, kept.layout
    model.folder_eos_ids, model.folder_repetition_penalty = kept.eos_ids, kept.repetition_penalty
    model.folder_decoder_start_id = kept.decoder_start_id
    return model


def _operands(kept: Remembered, parameters: Mapping[str, Tensor]) -> list[tuple[Bound, ...]]:
    """For each call its parameter operands; of those that are packed, nothing."""
    outline, fused = kept.outline, dict[tuple[str, ...], Tensor]()
    apart = {
        (name, placeholder): outline.native.takes_parts(name, placeholder)
        for name, interface in outline.interfaces.items()
        for placeholder in interface.parameters
    }

    def bound(call: Call, placeholder: str) -> Bound:
        formula = outline.interfaces[call.definition].parameters[placeholder]
        named = (parameter_path(call, part.node, part.name) for part in leaves(formula))
        paths = tuple(kept.ties.get(path, path) for path in named)
        parts = tuple(parameters[path] for path in paths if path in parameters)
        if len(parts) < len(paths):
            return ()
        if len(parts) == 1:
            return parts[0]
        if apart[call.definition, placeholder]:
            return parts
        if paths not in fused:
            fused[paths] = torch.cat(parts)
        return fused[paths]

    return [
        tuple(bound(call, placeholder) for placeholder in outline.interfaces[call.definition].parameters)
        for call in outline.calls
    ]
