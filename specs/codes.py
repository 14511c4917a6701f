"""Every code that a diagnostic can carry.

E01xx  YAML text and files                 E06xx  shapes, dtypes and ops
E02xx  keys, fields and the schema         E07xx  checkpoints
E03xx  names and references                E08xx  tokenizer, prompt and generation
E04xx  params and expressions              E09xx  environment (exit 3); E0950 and above: resources (exit 4)
E05xx  the graph
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .code import Code
from .codes_language import GRAPH, KEYS, NAMES, SHAPES
from .codes_runtime import CHECKPOINTS, ENVIRONMENT, GENERATION
from .codes_text import EXPRESSIONS, TEXT

CODES: Mapping[str, Code] = {
    **TEXT, **KEYS, **NAMES, **EXPRESSIONS, **GRAPH, **SHAPES, **CHECKPOINTS, **GENERATION, **ENVIRONMENT,
}  # fmt: skip


def exit_status(codes: Iterable[str]) -> int:
    """The exit status of a run that ended with these codes: the gravest of theirs, 0 for none."""
    return max((CODES[code].exit_status for code in codes), default=0)
