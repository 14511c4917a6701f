"""All of a loaded model that another process needs to run it without compiling or matching anything: plain data.

Weights are not in it, only where they lie: in the checkpoint's files, and packed ones in the file that holds those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..compiler.facts import Facts
from ..compiler.ir import Binding, Call, GraphInput
from ..compiler.native.body import Operand
from ..compiler.native.definition import NativeDefinition
from ..compiler.native.formats import Formats, Quantize
from ..compiler.native.outline import Interface, Outline
from ..compiler.native.regions import Region
from ..compiler.native.sharing import Borrowed, Part, Sharing
from ..compiler.native.slots import Slot
from ..compiler.native.source import NativeProgram
from ..compiler.ops.declaration import Init, ParameterSpec, StateSpec, TensorType
from ..compiler.parameters import Concat, Tensor
from ..compiler.weight_map import WeightRule
from ..specs.source import Span
from .mapped_file import Stored
from .weights import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A parameter that is computed of checkpoint tensors."""

    recipe: Recipe
    sources: tuple[Stored, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What is known of a model on a CPU whose whole program is machine code. Paths are those of parameters."""

    facts: Facts
    outline: Outline
    dtype: str
    quantize: Quantize | None
    formats: Formats
    weight_bytes: int
    files: tuple[str, ...]
    """What `Stored.file` counts."""
    stored: Mapping[str, Stored]
    """The parameters that are used where they lie."""
    made: Mapping[str, Made]
    packed: Mapping[str, Stored]
    """By call and placeholder."""
    ties: Mapping[str, str]
    folder: str
    layout: Mapping[str, str] | None
    """As of `Checkpoint`; None where the weights are packed."""
    eos_ids: tuple[int, ...] | None
    repetition_penalty: float | None
    decoder_start_id: int | None
    has_tokenizer: bool


KINDS: Mapping[str, type] = {
    kind.__name__: kind
    for kind in (
        *(Binding, Borrowed, Call, Concat, Facts, GraphInput, Init, Interface, Made, NativeDefinition, NativeProgram),
        *(Operand, Outline, ParameterSpec, Part, Recipe, Region, Remembered, Sharing, Slot, Span, StateSpec, Stored),
        *(Tensor, TensorType, WeightRule),
    )
}
"""Of the records in its JSON."""
