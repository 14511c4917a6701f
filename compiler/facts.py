"""What a running model is asked about itself again and again: plain data, whatever it was compiled from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ..specs.source import plain
from .fields import evaluate_node
from .ir import GraphInput
from .ops.declaration import StateSpec, Value

if TYPE_CHECKING:
    from .program import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Of a spec with its params, and of the model that it describes."""

    name: str
    inputs: tuple[GraphInput, ...]
    outputs: tuple[str, ...]
    states: Mapping[str, StateSpec]
    """What is kept between tokens, by the path of the node that owns it."""
    max_seq_len: int | None
    """The longest context, in tokens; None where the spec sets no limit."""
    vocab_size: int | None
    generation: Mapping[str, Value]
    """The section `generation:`, evaluated."""
    tokenizer: Mapping[str, Value]
    """The section `tokenizer:`."""


def facts(program: Program) -> Facts:
    """Those of a program. Raises LlmcError where an expression under `generation:` has no value."""
    spec = program.spec
    environment = spec.environment
    length, vocabulary = environment.get("max_seq_len"), environment.get("vocab_size")
    said = {} if spec.generation is None else evaluate_node(spec.generation, environment, is_text=True)
    return Facts(
        name=spec.name,
        inputs=program.model.inputs,
        outputs=tuple(program.model.outputs),
        states=program.states,
        max_seq_len=length if isinstance(length, int) else None,
        vocab_size=vocabulary if isinstance(vocabulary, int) else None,
        generation=cast("dict[str, Value]", said),
        tokenizer={} if spec.tokenizer is None else cast("dict[str, Value]", plain(spec.tokenizer)),
    )
