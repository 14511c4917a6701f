"""NaN and infinity: in a checkpoint they are found at load; in a model or its cache they stop the request."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import llmc
from llmc.runtime.cache import Cache
from llmc.runtime.checkpoint import open_checkpoint
from llmc.runtime.model import LanguageModel
from llmc.runtime.weights import match_checkpoint, read_parameters
from llmc.specs.diagnostics import LlmcError

from .families import each_causal
from .reference import Golden
from .test_weight_faults import all_tensors, is_spare

BAD = (float("nan"), float("inf"), float("-inf"))


def test_in_any_tensor(golden: Golden, model: LanguageModel, tmp_path: Path) -> None:
    """One bad number anywhere: first, last, or between."""
    original = all_tensors(golden.folder)
    for index, (name, tensor) in enumerate(original.items()):
        if is_spare(golden, name):
            continue
        broken = tensor.clone()
        place = (0, tensor.numel() - 1, tensor.numel() // 2)[index % 3]
        broken.view(-1)[place] = BAD[index // 3 % 3]
        save_file({**original, name: broken}, tmp_path / "model.safetensors")
        with pytest.raises(LlmcError) as found, open_checkpoint(tmp_path) as checkpoint:
            list(read_parameters(match_checkpoint(model.program.weights, checkpoint), checkpoint, torch.float32))
        (diagnostic,) = found.value.diagnostics
        assert diagnostic.code == "E0756"
        assert f'"{name}"' in diagnostic.message or f"'{name}'" in diagnostic.message
        assert f"the first at element {place}" in diagnostic.message


def test_load_refuses(golden: Golden, tmp_path: Path) -> None:
    tensors = all_tensors(golden.folder)
    next(iter(tensors.values())).view(-1)[5] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((golden.folder / "config.json").read_bytes())
    with pytest.raises(LlmcError, match="E0756"):
        llmc.load(tmp_path)


@each_causal
def test_a_model_that_went_bad_stops(golden: Golden) -> None:
    model = llmc.load(golden.folder)
    model.generate([1, 2, 3], max_new_tokens=3, ignore_eos=True)
    norms = {path: p for path, p in model.named_parameters() if "norm" in path or "ln_" in path}
    norm = next(p for path, p in norms.items() if not path.endswith(("q_norm.weight", "k_norm.weight")))
    with torch.no_grad():
        norm[4] = float("nan")
    with pytest.raises(LlmcError, match="E0856"):
        model.generate([1, 2, 3], max_new_tokens=3, ignore_eos=True)


@each_causal
def test_a_cache_that_went_bad_stops(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    model = llmc.load(golden.folder)
    calls: list[int] = []
    advance = Cache.advance

    def poison(cache: Cache, new: torch.Tensor) -> None:
        advance(cache, new)
        calls.append(1)
        if len(calls) == 1:
            for state in cache.states.values():
                state[1].fill_(float("inf"))

    monkeypatch.setattr(Cache, "advance", poison)
    with pytest.raises(LlmcError, match="E0856"):
        model.generate([1, 2, 3, 4, 5], max_new_tokens=90, ignore_eos=True)  # a burst reads the cache
    assert sum(calls) <= 4, "it went on after a step without finite logits"
