"""The compiler's table of contents: from a YAML file to a checked model, and from that to a Program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..specs.diagnostics import LlmcError
from ..specs.document import Document, load_document
from .check import check_structure
from .expand import expand
from .infer import infer
from .ir import Model
from .ops.declaration import Value
from .resolve import resolve, unused_params
from .spec import Spec

if TYPE_CHECKING:
    from .program import Program


def read(target: str | Path | Document, params: Mapping[str, Value] | None = None) -> tuple[Spec, Model]:
    """Load, check, resolve, expand and infer: everything that needs no torch.

    Raises LlmcError with every mistake of the first stage that finds one.
    """
    document = target if isinstance(target, Document) else load_document(target)
    found = check_structure(document.root)
    if found:
        raise LlmcError(found)
    spec = resolve(document, params or {})
    model = infer(spec, expand(spec))
    unused = unused_params(spec)
    if unused:
        raise LlmcError(unused)
    return spec, model


def check(target: str | Path, params: Mapping[str, Value] | None = None) -> Model:
    """The typed model of a spec, or LlmcError with every mistake found."""
    return read(target, params)[1]


def build(
    target: str | Path | Document,
    params: Mapping[str, Value] | None = None,
    *,
    device: str = "cpu",
    dtype: str = "float32",
) -> Program:
    """The compiled Program of a spec, without weights. Raises LlmcError with every mistake found."""
    from .program import compile_model

    spec, model = read(target, params)
    return compile_model(spec, model, device=device, dtype=dtype)
