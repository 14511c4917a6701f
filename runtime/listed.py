"""What `llmc list` says of every packaged spec: kept in the user's cache for as long as llmc's sources are the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from math import prod
from typing import cast

from ..specs.packaged import packaged_names
from .own_sources import Unsettled, sources_state
from .user_cache import known


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One spec. Tied tensors count once in `parameters`; `context` is in tokens; `error` is a code where it does not
    check, and nothing else is known then."""

    name: str
    summary: str = ""
    parameters: int | None = None
    layers: int | None = None
    context: int | None = None
    error: str | None = None


def listed() -> list[Listed]:
    """All packaged specs, by name."""
    found = json.loads(known("list", _key(), lambda: json.dumps([asdict(_read(name)) for name in packaged_names()])))
    return [Listed(**one) for one in cast("list[dict[str, str]]", found)]  # type: ignore[arg-type]


def _key() -> str | None:
    """Of what the list is made of; None where that may still change."""
    try:
        return hashlib.sha256(sources_state().encode()).hexdigest()[:40]
    except (OSError, Unsettled):
        return None


def _read(name: str) -> Listed:
    from ..compiler.pipeline import read
    from ..compiler.weight_map import weight_map
    from ..specs.diagnostics import LlmcError

    try:
        spec, model = read(name)
        weights = weight_map(spec, model)
    except LlmcError as error:
        return Listed(name=name, error=error.diagnostics[0].code)
    layers, context = spec.environment.get("num_layers"), spec.environment.get("max_seq_len")
    return Listed(
        name=name,
        summary=spec.summary,
        parameters=sum(prod(p.shape) for path, p in weights.parameters.items() if path not in weights.ties),
        layers=layers if isinstance(layers, int) else None,
        context=context if isinstance(context, int) else None,
    )
