"""What runs machine code knows of the program that it was made of: plain data, without graphs and without the spec.

An outline is all that binding and running takes, so a program that was compiled before can be run without being
compiled again: `runtime/plan_cache.py` keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..ir import Call, GraphInput
from ..lowered import Lowered, Module, value_types
from ..ops.declaration import StateSpec, TensorType
from ..parameters import Formula
from ..passes.hoist_once import kept_values
from ..pieces import refuse_pieces
from .regions import Part, regions
from .source import NativeProgram


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """The operands of a definition, in order, without its graph. As in `Lowered`."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: Mapping[str, Formula]
    states: Mapping[str, tuple[str, StateSpec]]
    scalars: Mapping[str, tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """A program as C, with its calls in order. `types` are those of the values between them."""

    inputs: tuple[GraphInput, ...]
    outputs: Mapping[str, str]
    """The program's value of each output."""
    calls: tuple[Call, ...]
    interfaces: Mapping[str, Interface]
    types: Mapping[str, TensorType]
    states: Mapping[str, StateSpec]
    kept: tuple[str, ...]
    """What the calls after the first read of what is computed at the first."""
    tail_is_tokenwise: bool
    """Whether the last call may run on the last token alone."""
    runs_in_pieces: bool
    """Whether a long prompt may run in pieces."""
    regions: tuple[Part, ...]
    native: NativeProgram


def outline(module: Module, native: NativeProgram, states: Mapping[str, StateSpec]) -> Outline:
    """The outline of a module and its code; `states` are the module's, by path."""
    return Outline(
        inputs=module.model.inputs,
        outputs=dict(module.outputs),
        calls=tuple(module.calls),
        interfaces={name: _interface(lowered) for name, lowered in module.definitions.items()},
        types=value_types(module),
        states=states,
        kept=tuple(sorted(kept_values(module))),
        tail_is_tokenwise=module.tail_is_tokenwise,
        runs_in_pieces=bool(states) and refuse_pieces(module) is None,
        regions=regions(module, native),
        native=native,
    )


def _interface(lowered: Lowered) -> Interface:
    return Interface(
        inputs=tuple(lowered.inputs),
        outputs=tuple(lowered.outputs),
        parameters=dict(lowered.parameters),
        states=dict(lowered.states),
        scalars=dict(lowered.scalars),
    )
