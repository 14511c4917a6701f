"""Runs a bound Program: call after call, values dropped after their last reader."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol, cast

import torch
from torch import Tensor

from ..compiler.axes import is_of_stream
from ..compiler.ops.declaration import StateSpec, Value
from ..compiler.passes.hoist_once import kept_values, once_values
from ..compiler.program import PHASES, Program
from ..compiler.select import Selection
from ..kernels.kernel import Phase
from .beam_settings import BeamSettings
from .beams import Beams, Record
from .prepared import Prepared
from .sampling import Drawing
from .tree import scalar_operands

State = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call, with everything about it looked up."""

    selections: Mapping[Phase, Selection]
    inputs: tuple[str | tuple[str, ...], ...]
    ambient: tuple[str, ...]
    operands: Mapping[Phase, tuple[Tensor, ...]]
    """The parameters as the kernels of a phase read them."""
    states: tuple[str, ...]
    scalars: tuple[Value, ...]
    outputs: tuple[str, ...]
    is_once: bool
    """It runs at the first call of a request only."""
    spent: tuple[str, ...]
    """Values that nothing reads after this call."""


class Searching(Protocol):
    """A beam search whose steps run without Python between them."""

    @property
    def beams(self) -> Beams:
        """Those that it goes on with; the caller begins them."""
        ...

    def search(self, lengths: Tensor, rules: Sequence[Sequence[float]]) -> tuple[list[Record], Tensor]:
        """A step for each rule, after lengths `[R]` tokens -> what they chose, and the lengths after them.

        A rule is that of `kernels/sampling/beam_reference.py`, and whether a text may end there at all.
        """
        ...


class Executor(ABC):
    """What runs a Program with its parameters bound."""

    @abstractmethod
    def run(
        self,
        phase: Phase,
        inputs: Mapping[str, Tensor],
        ambient: Mapping[str, Tensor],
        states: dict[str, State],
        *,
        kept: dict[str, Tensor] | None = None,
        last_token_only: bool = False,
    ) -> dict[str, Tensor]:
        """One pass over the tokens. Updates `states` in place and returns the model's outputs by name.

        `kept` is what a request holds of its inputs that are given once: where it is empty, this is the first call,
        which computes it; later calls read it and need neither those inputs nor the ambient tensors of their axes.
        `last_token_only` runs the definitions after the last repeat on each row's last token alone, where they allow
        it: outputs are then `[B, 1, …]`.
        """

    @abstractmethod
    def release(self) -> None:
        """Let go of the tensors that packed ones stand for."""

    @property
    def can_decode(self) -> bool:
        """Whether `decode` is there: many tokens without a look at each."""
        return False

    @property
    def can_sample(self) -> bool:
        """Whether `decode` obeys a `drawing`; else it gives the likeliest tokens."""
        return False

    def decode(
        self,
        tokens: Sequence[int],
        lengths: Sequence[int],
        states: dict[str, State],
        steps: int,
        ends: Sequence[int],
        drawing: Drawing | None = None,
        *,
        kept: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> list[list[int]]:
        """Up to `steps` tokens after `tokens`, one list a row: the likeliest, or as `drawing` says. Needs `can_decode`.

        tokens: the last one of each row, which the states do not hold yet, or -1 where the row has ended; lengths: what
        the states hold; kept: what the request holds of its inputs that are given once. A row ends with a token of
        `ends`. Where logits are not finite its list stops before it: the caller's next step will find the same.
        """
        raise NotImplementedError

    def choose(self, logits: Tensor, drawing: Drawing, is_open: Sequence[bool]) -> list[int] | None:
        """The token of each row that `decode` would choose from these logits `[R, V]` float32, which penalties change;
        -1 where the row has ended. None where it chooses elsewhere, or where logits are not finite."""
        return None

    def searching(
        self,
        states: dict[str, State],
        specs: Mapping[str, StateSpec],
        settings: BeamSettings,
        *,
        prompts: int,
        ends: Sequence[int],
        counts: bool,
        kept: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Searching | None:
        """What searches on in these states without a look at each token; None where every step is a `run`."""
        return None

    def rows_for(self, prompts: int) -> int:
        """The rows of a cache that serves so many prompts: those beyond them are padding."""
        return prompts


class TorchExecutor(Executor):
    """Runs every call through torch, with the kernels that were selected."""

    def __init__(
        self,
        program: Program,
        parameters: Sequence[tuple[Tensor, ...]],
        packed: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """packed: matrices of machine code by call and placeholder, for the kernels that have a use for them."""
        self.program = program
        real = (one.device for tensors in parameters for one in tensors if not one.is_meta)
        prepared = Prepared(program, packed, next(real, None))
        self.steps = [self._step(index, tensors, prepared) for index, tensors in enumerate(parameters)]
        self.once = once_values(program.module)
        self.kept = kept_values(program.module)
        """What the calls after the first read of what is computed at the first."""
        self.tail_is_tokenwise = program.module.tail_is_tokenwise

    def release(self) -> None:
        """Packed forms stand beside nothing here."""

    def let_go(self, definitions: Container[str]) -> None:
        """Let go of the operands of calls that run elsewhere."""
        for index, call in enumerate(self.program.module.calls):
            if call.definition in definitions:
                self.steps[index] = replace(self.steps[index], operands=dict.fromkeys(PHASES, ()))

    def _step(self, index: int, tensors: tuple[Tensor, ...], prepared: Prepared) -> Step:
        module = self.program.module
        call = module.calls[index]
        lowered = module.definitions[call.definition]
        later: set[str] = set(module.outputs.values())
        for following in module.calls[index + 1 :]:
            for value in following.inputs.values():
                later |= set(value) if isinstance(value, tuple) else {value}
        read = {v for value in call.inputs.values() for v in (value if isinstance(value, tuple) else (value,))}
        return Step(
            selections={phase: self.program.selections[phase][call.definition] for phase in PHASES},
            inputs=tuple(call.inputs.values()),
            ambient=tuple(lowered.ambient),
            operands=prepared.operands(call, tensors),
            states=tuple(call.binding.own(path) for path, _ in lowered.states.values()),
            scalars=tuple(scalar_operands(lowered, call).values()),
            outputs=tuple(call.outputs.values()),
            is_once=call.rate == "once",
            spent=tuple(sorted(read - later)),
        )

    def run(
        self,
        phase: Phase,
        inputs: Mapping[str, Tensor],
        ambient: Mapping[str, Tensor],
        states: dict[str, State],
        *,
        kept: dict[str, Tensor] | None = None,
        last_token_only: bool = False,
    ) -> dict[str, Tensor]:
        """As `Executor.run`."""
        is_later = bool(kept)
        values: dict[str, object] = {**inputs, **(kept or {})}
        ambient = {**ambient, **(kept or {})}
        if kept is not None and not is_later:
            kept |= {name: tensor for name, tensor in inputs.items() if name in self.kept}
            kept |= {name: tensor for name, tensor in ambient.items() if not is_of_stream(name)}
        for index, step in enumerate(self.steps):
            if step.is_once and is_later:
                continue
            if last_token_only and self.tail_is_tokenwise and index == len(self.steps) - 1:
                values = _keep_last_token(values, set(step.inputs) - self.once, ambient["position"])
            given = [[values[v] for v in value] if isinstance(value, tuple) else values[value] for value in step.inputs]
            results = self.call(step, "prefill" if step.is_once else phase, given, ambient, states)
            for name in step.spent:
                values.pop(name, None)
            values.update(zip(step.outputs, results, strict=True))
            if kept is not None and step.is_once:
                kept |= {name: cast("Tensor", values[name]) for name in step.outputs if name in self.kept}
        return {name: cast("Tensor", values[value]) for name, value in self.program.module.outputs.items()}

    def call(
        self,
        step: Step,
        phase: Phase,
        given: Sequence[object],
        ambient: Mapping[str, Tensor],
        states: dict[str, State],
    ) -> tuple[object, ...]:
        """One call with its inputs; updates `states` and returns the outputs."""
        function = cast("Callable[..., tuple[object, ...]]", step.selections[phase].module.forward)
        results = function(
            *given,
            *(ambient[name] for name in step.ambient),
            *step.operands[phase],
            *(states[path] for path in step.states),
            *step.scalars,
        )
        count = len(step.outputs)
        for path, state in zip(step.states, results[count:], strict=True):
            states[path] = cast("State", state)
        return results[:count]


def last_rows(position: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of the batch, and where in each the token with the highest position lies. `[B, T]` -> two of `[B]`."""
    last = position.argmax(dim=1)
    return torch.arange(len(last), device=last.device), last


def _keep_last_token(
    values: Mapping[str, object], names: Iterable[str | tuple[str, ...]], position: Tensor
) -> dict[str, object]:
    """All values, those of these names cut to the token of each row with the highest position."""
    rows, last = last_rows(position)
    kept = dict(values)
    for name in names:
        if not isinstance(name, str):
            continue
        value = kept[name]
        if isinstance(value, Tensor) and value.dim() >= 2 and value.shape[:2] == position.shape:
            kept[name] = value[rows, last][:, None]
    return kept
