"""`llmc.load`: a spec or a folder becomes a model with weights."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import nn

from ..compiler.native.formats import QUANTIZE, Quantize
from ..compiler.ops.declaration import Value
from ..compiler.pipeline import read
from ..compiler.program import Program, compile_model
from ..specs.diagnostics import LlmcError, fail
from .basis import Basis, basis
from .checkpoint import Checkpoint, open_checkpoint
from .containment import find_inside, read_json_object
from .device import require_device
from .initialise import initialise
from .locate import Request, locate
from .memory import require_memory
from .model import LanguageModel
from .model_cache import keep, recall
from .own_sources import Unsettled
from .pack_cache import pack_cached
from .packed_folder import fill_packed, packed_contents, packed_format, read_packed
from .remember import basis_of, remembered
from .special_tokens import read_special_tokens
from .tokenizer import Tokenizer, folder_tokenizer
from .tree import assign
from .weights import checkpoint_dtype, match_checkpoint, read_parameters

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
CACHE_DTYPES = {name: DTYPES[name] for name in ("float32", "bfloat16", "float16")} | {
    "float8_e4m3fn": torch.float8_e4m3fn
}


def load(
    target: str | Path,
    weights: str | Path | None = None,
    params: Mapping[str, Value] | None = None,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    quantize: str | None = None,
    seed: int = 0,
    cache_dtype: str | None = None,
) -> LanguageModel:
    """A model that runs.

    target: a spec (path or packaged name), a folder that `llmc build` wrote, or a Hugging Face folder, whose
    config.json picks the spec and which then gives the weights too. weights: a folder with safetensors; without one,
    parameters are filled afresh from `seed`. dtype: `float32`, `bfloat16`, `float16` or `float64`; None takes the
    checkpoint's. cache_dtype: of cached keys and values, where it is to differ. Raises LlmcError with what is wrong in
    spec, config, weights or tokenizer, and E0950 where memory will not do.
    """
    if quantize is not None and quantize not in QUANTIZE:
        raise fail("E0855", f"there is no quantize {quantize!r}", help="one of: " + ", ".join(QUANTIZE))
    if dtype is not None and dtype not in DTYPES:
        raise fail("E0855", f"there is no dtype {dtype!r}", help="one of: " + ", ".join(DTYPES))
    if cache_dtype is not None and cache_dtype not in CACHE_DTYPES:
        raise fail("E0855", f"there is no cache_dtype {cache_dtype!r}", help="one of: " + ", ".join(CACHE_DTYPES))
    require_device(device)
    request = Request(
        target=target, weights=weights, params=params or {}, device=device, dtype=dtype, quantize=quantize
    )
    loaded = None if device != "cpu" else recall(request.absolute(), partial(_compile_again, request.absolute()))
    if loaded is None:
        loaded = _load(request, seed)
    if cache_dtype is not None:
        loaded.keep_keys_as(CACHE_DTYPES[cache_dtype])
    return loaded.eval()


def _load(request: Request, seed: int) -> LanguageModel:
    """A model that is compiled here and now, and kept for later processes where it can be."""
    started, found = time.time(), locate(request)
    folder, quantize = found.weights, cast("Quantize | None", request.quantize)
    spec, model = read(found.spec, found.params, origin=found.origin)
    checkpoint = None if folder is None else open_checkpoint(folder)
    packed_as = None if checkpoint is None else packed_format(checkpoint)
    if packed_as is not None and (request.dtype is not None or quantize not in (None, packed_as)):
        raise fail(
            "E0855", f"the weights are packed as {packed_as} and stay so", help="load without dtype and quantize"
        )
    given = DTYPES.get(request.dtype or "")
    chosen = given or (torch.float32 if checkpoint is None else checkpoint_dtype(checkpoint))
    program = compile_model(spec, model, device=request.device, dtype=str(chosen).removeprefix("torch."))
    if checkpoint is None or folder is None:
        loaded = LanguageModel(program)
        _fill(loaded, program, chosen, request.device, seed)
        if quantize is not None:
            loaded.pack(quantize)
        return loaded
    packed_in: Path | None = None
    with checkpoint:
        loaded = None
        if quantize is not None and packed_as is None and request.device != "cpu":
            loaded = load_packed_by_cpu(program, folder, checkpoint, quantize, torch.device(request.device))
        if loaded is None:
            loaded = load_program(program, folder, checkpoint)
            if quantize is not None and packed_as is None and request.device == "cpu":
                packed_in = pack_cached(loaded, quantize, checkpoint)
        if quantize is not None:
            checkpoint.forget_pages()
            if loaded.quantize is None:
                loaded.pack(quantize)
        if request.device == "cpu" and (quantize is None or packed_in is not None or packed_as is not None):
            _keep(request, loaded, checkpoint, packed_in, started)
    return loaded


def _keep(
    request: Request, model: LanguageModel, checkpoint: Checkpoint, packed_in: Path | None, started: float
) -> None:
    """Let later processes find the model, unless what it rests on is too new to be known by its times."""
    target = Path(request.target)
    folders = (checkpoint.folder, target) if target.is_dir() else (checkpoint.folder,)
    with suppress(OSError, Unsettled):
        basis((), folders, started=started)
        found = remembered(model, checkpoint, packed_in)
        if found is not None:
            keep(request.absolute(), basis_of(model.program.spec.document, folders, found, started, packed_in), found)


def _compile_again(request: Request, rests_on: Basis, dtype: str) -> Program:
    """The Program of a model that was recalled. Raises E0759 where what it rests on has changed since."""
    if not rests_on.is_same():
        what = "its files or llmc's have changed since it was loaded"
        raise fail("E0759", f"{request.target} cannot be compiled: {what}", help="load it again")
    found = locate(request)
    spec, model = read(found.spec, found.params, origin=found.origin)
    return compile_model(spec, model, device=request.device, dtype=dtype)


def load_program(program: Program, folder: Path, checkpoint: Checkpoint) -> LanguageModel:
    """A compiled program with the weights and the tokenizer of a folder. Raises as `load`."""
    model = _empty(program, folder)
    if packed_format(checkpoint) is not None:
        read_packed(model, checkpoint)
        return model
    matching = match_checkpoint(program.weights, checkpoint)
    for path, tensor in read_parameters(matching, checkpoint, DTYPES[program.target.dtype]):
        is_trained = program.weights.parameters[path].is_trained
        assign(model, path, nn.Parameter(tensor.to(program.target.device), requires_grad=is_trained))
    model.layout = checkpoint.layout
    model.retie()
    return model


def load_packed_by_cpu(
    program: Program, folder: Path, checkpoint: Checkpoint, quantize: Quantize, device: torch.device
) -> LanguageModel | None:
    """A program for a GPU on matrices that machine code packs, or had packed for an earlier load: the weights
    themselves never get to `device`. None where machine code cannot pack them, and the GPU has to."""
    here = compile_model(program.spec, program.model, dtype=program.target.dtype)
    on_cpu = load_program(here, folder, checkpoint)
    try:
        tensors, matrices = packed_contents(on_cpu, lambda: pack_cached(on_cpu, quantize, checkpoint))
    except LlmcError as error:
        if error.diagnostics[0].code != "E0861":
            raise
        return None
    made = _empty(program, folder)
    fill_packed(made, quantize, tensors, matrices, device)
    return made


def _empty(program: Program, folder: Path) -> LanguageModel:
    """A model without parameters, and what the folder says beside its weights."""
    model = LanguageModel(program)
    model.tokenizer = folder_tokenizer(folder, model.facts.tokenizer)
    model.source = folder
    model.folder_eos_ids = _eos_ids(folder)
    model.folder_repetition_penalty = _repetition_penalty(folder)
    model.folder_decoder_start_id = read_special_tokens(folder).decoder_start_id
    _check_vocabulary(model, model.tokenizer)
    return model


def _eos_ids(folder: Path) -> tuple[int, ...] | None:
    """The end ids that the folder's own config gives; None where it says nothing."""
    has_config = any(find_inside(folder, name) for name in ("generation_config.json", "config.json"))
    return read_special_tokens(folder).eos_ids if has_config else None


def _repetition_penalty(folder: Path) -> float | None:
    """What generation_config.json says: it holds for greedy text too, unlike the values for sampling."""
    path = find_inside(folder, "generation_config.json")
    value = None if path is None else read_json_object(path, 1 << 20).get("repetition_penalty")
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _fill(model: LanguageModel, program: Program, dtype: torch.dtype, device: str, seed: int) -> None:
    require_memory(program.plan.parameters * dtype.itemsize, "the parameters")
    model.to_empty(device=device)
    model.to(dtype)
    model.retie()
    owned = {path: spec for path, spec in program.weights.parameters.items() if path not in program.weights.ties}
    initialise(dict(model.named_parameters(remove_duplicate=False)), owned, seed)


def _check_vocabulary(model: LanguageModel, tokenizer: Tokenizer | None) -> None:
    size = model.facts.vocab_size
    if tokenizer is not None and size is not None and tokenizer.vocab_size > size:
        raise fail(
            "E0809",
            f"the tokenizer has {tokenizer.vocab_size} tokens, but the model only {size}",
            help="the tokenizer belongs to another model, or tokens were added after training",
        )
