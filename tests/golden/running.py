"""The ways to run a model of ours, each giving outputs by name."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from llmc.runtime.model import LanguageModel

from .comparison import require_equal
from .reference import Golden


def named(answer: object) -> dict[str, Tensor]:
    """Outputs by name; a single tensor is the logits."""
    return {"logits": answer} if isinstance(answer, Tensor) else dict(answer)  # type: ignore[call-overload]


def run_modules(
    model: LanguageModel, tokens: Tensor, attention_mask: Tensor | None = None, **inputs: Tensor
) -> dict[str, Tensor]:
    """Through the module tree, as in training."""
    with torch.enable_grad():
        answer = named(model(tokens, attention_mask=attention_mask, **inputs))
    return {name: value.detach() for name, value in answer.items()}


def run_program(
    model: LanguageModel, tokens: Tensor, attention_mask: Tensor | None = None, **inputs: Tensor
) -> dict[str, Tensor]:
    """Through the fused Program: with a fresh cache, or as an encoder without one."""
    cache = model.new_cache(len(tokens), tokens.shape[1]) if model.program.states else None
    with torch.no_grad():
        return named(model(tokens, attention_mask=attention_mask, cache=cache, **inputs))


def run_chunks(model: LanguageModel, tokens: Tensor, sizes: Sequence[int]) -> Tensor:
    """Logits of tokens that are given in pieces, through one cache."""
    assert sum(sizes) == tokens.shape[1]
    cache = model.new_cache(len(tokens), tokens.shape[1])
    return torch.cat([named(model(piece, cache=cache))["logits"] for piece in tokens.split(list(sizes), dim=1)], dim=1)


Run: TypeAlias = Callable[..., dict[str, Tensor]]
RUNS: Mapping[str, Run] = {"modules": run_modules, "program": run_program}


def require_golden(golden: Golden, outputs: Mapping[str, Tensor]) -> None:
    """Every output of the family's own input equals the reference's, by the golden rule."""
    assert outputs.keys() >= golden.expected.keys()
    for name, expected in golden.expected.items():
        require_equal(name, outputs[name], expected, golden.exact[name])
