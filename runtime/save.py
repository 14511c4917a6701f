"""Writes a model as a Hugging Face style folder: config.json, weights in their original layout, tokenizer files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from ..compiler.config_map import config_from_params, config_map
from ..compiler.fields import evaluate_node
from ..compiler.ops.declaration import Value
from ..compiler.spec import Spec
from ..specs.diagnostics import fail
from .atomic import write_atomically
from .checkpoint_writer import write_checkpoint
from .containment import find_inside, read_bytes, read_json_object
from .strict_json import json_text
from .weights import export_parameters

if TYPE_CHECKING:
    from .model import LanguageModel

COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
)
CARRIED_KEYS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "is_encoder_decoder",
    "id2label",
    "label2id",
    "problem_type",
)


def save(model: LanguageModel, folder: Path) -> None:
    """Write `folder`. Raises E0714, with the weights written, where the spec has no config section for config.json."""
    spec = model.program.spec
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: p.detach().cpu() for name, p in model.named_parameters(remove_duplicate=False)}
    with torch.inference_mode(False), torch.no_grad():
        exported = export_parameters(model.program.weights, tensors, model.layout)
    write_checkpoint(folder, exported, _layout(model, exported.keys()), {"format": "pt"})
    if spec.config is None:
        message = f"the weights are in {folder}, but no config.json: {spec.name} has no config: section to make it of"
        remedy = "load them by the spec and the folder (weights=, --weights), or add config: to the spec"
        raise fail("E0714", message, help=remedy)
    original: Mapping[str, object] = _special_ids(spec)
    source = None if model.source is None else find_inside(model.source, "config.json")
    if source is not None:
        original = read_json_object(source, 4 << 20)
    extra = {key: original[key] for key in CARRIED_KEYS if key in original}
    dtype = str(model.dtype).removeprefix("torch.")
    config = config_from_params(config_map(spec.config), spec.environment, {**extra, "dtype": dtype})
    write_atomically(folder / "config.json", json_text(config))
    for name in COPIED:
        file = None if model.source is None else find_inside(model.source, name)
        if file is not None:
            write_atomically(folder / name, read_bytes(file, 64 << 20))


def _special_ids(spec: Spec) -> dict[str, object]:
    """What the spec's `generation:` says about special tokens; null where the vocabulary is too small for it.

    Without the key, transformers would take its own default, and cannot even be built where that is out of range.
    """
    given = {} if spec.generation is None else evaluate_node(spec.generation, spec.environment, is_text=True)
    size = spec.environment.get("vocab_size")
    starts = "decoder_start_token_id" in cast("Mapping[str, Value]", given)
    found: dict[str, object] = {"is_encoder_decoder": True} if starts else {}
    for key in ("bos_token_id", "eos_token_id", "pad_token_id", *(["decoder_start_token_id"] if starts else [])):
        value = cast("Mapping[str, Value]", given).get(key)
        ids = value if isinstance(value, list) else [value]
        fits = all(isinstance(i, int) and (not isinstance(size, int) or i < size) for i in ids)
        found[key] = value if fits else None
    return found


def _layout(model: LanguageModel, names: object) -> dict[str, str] | None:
    """The files of the folder that was read, where the same tensors are written."""
    if model.layout is None or set(model.layout) != set(names):  # type: ignore[call-overload]
        return None
    return dict(model.layout)
