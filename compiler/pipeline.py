"""The compiler's table of contents: from a YAML file to a checked model, and from that to a Program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..specs.diagnostics import LlmcError, Note
from ..specs.document import Document, load_document
from .check import check_structure
from .check_unmasking import check_unmasking
from .expand import expand
from .fields import show_value
from .infer import infer
from .ir import Model
from .ops.declaration import Value
from .param_notes import with_param_notes
from .phases import PhaseObserver, phase
from .reads import unused_parts
from .resolve import resolve
from .spec import Spec
from .weight_map import weight_map

if TYPE_CHECKING:
    from .program import Program


def read(
    target: str | Path | Document,
    params: Mapping[str, Value] | None = None,
    *,
    origin: str = "params=",
    on_phase: PhaseObserver | None = None,
) -> tuple[Spec, Model]:
    """Load, check, resolve, expand and infer: everything that needs no torch.

    `origin` is what messages call the place that `params` are from: `params=`, `--set`, a config.json.
    Raises LlmcError with every mistake of the first stage that finds one.
    """
    with phase("load", on_phase):
        document = target if isinstance(target, Document) else load_document(target)
    with phase("check", on_phase):
        found = check_structure(document.root)
        if found:
            raise LlmcError(found)
    try:
        with phase("resolve", on_phase):
            spec = resolve(document, params or {}, origin)
        with phase("expand", on_phase):
            expansion = expand(spec)
        with phase("infer", on_phase):
            model = infer(spec, expansion)
            unused = unused_parts(spec)
            if unused:
                raise LlmcError(unused)
            check_unmasking(spec, model)
            weight_map(spec, model)
    except LlmcError as error:
        told = LlmcError([with_param_notes(found, document.root, params or {}) for found in error.diagnostics])
        raise _with_provenance(told, params or {}, origin) from None
    return spec, model


def _with_provenance(error: LlmcError, params: Mapping[str, Value], origin: str) -> LlmcError:
    """The error with a note, on its first mistake, of what was set from outside of the spec."""
    first, *others = error.diagnostics
    if not params or origin in first.message:
        return error
    listed = [f"{name[:64]} = {show_value(value)}" for name, value in params.items()]
    note = Note(text=f"from {origin}: {', '.join(listed[:6])}{', …' if len(listed) > 6 else ''}")
    return LlmcError([replace(first, notes=(*first.notes, note)), *others])


def check(target: str | Path, params: Mapping[str, Value] | None = None) -> Model:
    """The typed model of a spec, or LlmcError with every mistake found."""
    return read(target, params)[1]


def build(
    target: str | Path | Document,
    params: Mapping[str, Value] | None = None,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    origin: str = "params=",
    on_phase: PhaseObserver | None = None,
) -> Program:
    """The compiled Program of a spec, without weights. Raises LlmcError with every mistake found."""
    from .program import compile_model

    spec, model = read(target, params, origin=origin, on_phase=on_phase)
    return compile_model(spec, model, device=device, dtype=dtype, on_phase=on_phase)
