"""How wrong each node of a program is: what it computed, against its reference in float64 on the same inputs.

The program is one that keeps its values (`compiler/keep_values.py`). Every node is given what ours computed before it,
so a mistake shows at its own place and not in everything after it. The measure is the error of the reference itself in
the program's precision: a node whose ratio is 1 rounds as well as plain torch does. Packed weights are unpacked for
the reference, whose activations are rounded as the format rounds them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor, fx

from ..compiler.ir import Call
from ..compiler.keep_values import kept_as, result_of
from ..compiler.lowered import Lowered, site_of
from ..compiler.native.body import AS_THEY_ARE, Operand
from ..kernels.kernel import Phase
from ..kernels.tolerance import TOLERANCE, error_ratio
from ..specs.source import Span
from .cache import Cache
from .execute import Executor, State
from .model import LanguageModel
from .native.binding import operand_name
from .native.executor import NativeExecutor
from .native.packing import unpack
from .node_reference import Both, Packed, run_reference
from .storage import ParameterBinder
from .tree import scalar_operands

ROOM = 10.0
"""How many times the reference's own error a node may be wrong by."""
SUMS_TOLERANCE = 5e-6
"""Of products of whole numbers that are summed in float32."""
PACKED_TOLERANCE: Mapping[str, float] = MappingProxyType({"experts": 5e-3})
"""Of ops that round what they have computed themselves: a number that lies between two may become either, a step of
1 / 127 of the largest beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeError:
    """One value of one node in one pass. `error` and `reference_error` are error ratios against float64: of ours, and
    of the reference in `dtype`."""

    path: str
    op: str
    port: str
    kernel: str
    phase: Phase
    span: Span
    dtype: str
    error: float
    reference_error: float
    tolerance: float

    @property
    def ratio(self) -> float:
        """Our error in units of the reference's, which counts as no less than a quarter of the dtype's epsilon."""
        return self.error / max(self.reference_error, torch.finfo(getattr(torch, self.dtype)).eps / 4)

    def as_json(self) -> dict[str, str | float]:
        """Its figures and where it is in the spec."""
        named = {name: getattr(self, name) for name in ("path", "op", "port", "kernel", "phase", "dtype")}
        figures = {"ratio": self.ratio, "error": self.error, "reference_error": self.reference_error}
        return {**named, **figures, "place": self.span.at_line}

    @property
    def is_wrong(self) -> bool:
        """Whether it is wrong by more than a kernel's tolerance, and than what rounding makes of the reference."""
        return not self.error <= max(self.tolerance, ROOM * self.reference_error)


@dataclass(slots=True, kw_only=True)
class _Pass:
    """One pass of the program, as it was found and as it was left."""

    phase: Phase
    inputs: Mapping[str, Tensor]
    ambient: Mapping[str, Tensor]
    before: Mapping[str, State]
    is_later: bool
    outputs: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    after: Mapping[str, State] = field(default_factory=dict[str, State])


class NodeErrors:
    """Runs a model whose program keeps its values, and measures every node. `found` grows with each `run`."""

    def __init__(self, model: LanguageModel, *, quantize: Callable[[], None] | None = None) -> None:
        """quantize: packs the model's matrices, after which it has no parameters any more."""
        self.model = model
        self.parameters = ParameterBinder(model, model.program).bind()
        if quantize is not None:
            quantize()
        self.executor = model.executor()
        self.native = self.executor if isinstance(self.executor, NativeExecutor) else None
        if self.native is not None:
            self.native.gives_float32 = True
        self.kernels = {
            (phase, definition, choice.path): choice.kernel
            for phase, by_definition in model.program.kernels.items()
            for definition, choices in by_definition.items()
            for choice in choices
        }
        self.found: list[NodeError] = []

    def packed_operands(self, call: Call, node: fx.Node) -> Mapping[str, Operand]:
        """By argument of a node, its matrices that are packed."""
        if self.native is None or call.definition not in self.native.native.definitions:
            return {}
        operands = self.native.native.definitions[call.definition].parameters
        packed = {one.placeholder: one for one in operands if one.format not in AS_THEY_ARE}
        given = {name: str(value.target) for name, value in node.kwargs.items() if isinstance(value, fx.Node)}
        return {name: packed[target] for name, target in given.items() if target in packed}

    def packed(self, call: Call, node: fx.Node) -> Mapping[str, Packed]:
        """By argument of a node, its matrices that are packed, as the kernels multiply with them."""
        found: dict[str, Packed] = {}
        for name, operand in self.packed_operands(call, node).items():
            assert self.native is not None
            matrix = self.native.binding.packed[operand_name(call, operand.placeholder)]
            shape = self.model.program.module.definitions[call.definition].parameters[operand.placeholder].shape
            lies = {"is_pair": operand.is_pair, "is_in_out": operand.is_in_out}
            found[name] = Packed(unpack(self.native.library, matrix, shape, operand.format, **lies), operand.format)
        return found

    def run(self, values: Mapping[str, Tensor], cache: Cache) -> dict[str, Tensor]:
        """One pass over tokens that continue `cache`, as `LanguageModel.run_program`, and its nodes measured."""
        recorder = _Recorder(self.executor)
        with torch.inference_mode():
            self.model.run_program(values, cache, None, executor=recorder)
            (taken,) = recorder.taken
            self.found += _Measured(self, taken).nodes()
        return dict(taken.outputs)


class _Recorder(Executor):
    """Runs as another executor does, and keeps what it was given and gave."""

    def __init__(self, inner: Executor) -> None:
        self.inner = inner
        self.taken: list[_Pass] = []

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
        before = {path: tuple(buffer.clone() for buffer in state) for path, state in states.items()}
        is_later = bool(kept)
        outputs = self.inner.run(phase, inputs, ambient, states, kept=kept, last_token_only=last_token_only)
        taken = _Pass(
            phase=phase,
            inputs={**inputs, **(kept or {})},
            ambient={**ambient, **(kept or {})},
            before=before,
            is_later=is_later,
            outputs=outputs,
            after=states,
        )
        self.taken.append(taken)
        return outputs

    def release(self) -> None:
        self.inner.release()


class _Measured:
    """The nodes of one pass."""

    def __init__(self, whole: NodeErrors, taken: _Pass) -> None:
        self.whole, self.taken = whole, taken
        self.program = whole.model.program
        outputs = self.program.module.outputs
        self.values: dict[str, object] = {
            **taken.inputs,
            **{value: taken.outputs[name] for name, value in outputs.items()},
        }
        self.states = dict(taken.before)

    def nodes(self) -> Iterator[NodeError]:
        for index, call in enumerate(self.program.module.calls):
            if not (call.rate == "once" and self.taken.is_later):
                yield from self._call(call, self.whole.parameters[index])

    def _call(self, call: Call, parameters: Sequence[object]) -> Iterator[NodeError]:
        lowered = self.program.module.definitions[call.definition]
        is_native = self.whole.native is not None and call.definition in self.whole.native.native.definitions
        low = torch.float32 if is_native else self.whole.model.dtype
        values = self._operands(call, lowered, parameters)
        for node in lowered.graph.nodes:
            if node.op != "call_function":
                continue
            if node.target is operator.getitem:
                made = cast("Both", values[cast("fx.Node", node.args[0])]).part(cast("int", node.args[1]))
            else:
                packed = self.whole.packed(call, node)
                made = run_reference(lowered, node, values, low=low, packed=packed)
            name = kept_as(node)
            ours = None if name is None else self.taken.outputs[call.binding.own(name)]
            values[node] = made if ours is None else ours
            if ours is not None:
                yield self._error(call, node, ours, made, low)
        for port, node in zip(lowered.outputs, lowered.results, strict=False):
            self.values.setdefault(call.outputs[port], values[node])
        successors = lowered.results[len(lowered.outputs) :]
        for (path, _), node in zip(lowered.states.values(), successors, strict=True):
            self.states[call.binding.own(path)] = ours = self.taken.after[call.binding.own(path)]
            yield self._error(call, node, ours, cast("Both", values[node]), low)

    def _operands(self, call: Call, lowered: Lowered, parameters: Sequence[object]) -> dict[fx.Node, object]:
        """What the placeholders of a call stand for."""
        named: dict[str, object] = {
            port: [self.values[one] for one in value] if isinstance(value, tuple) else self.values[value]
            for port, value in call.inputs.items()
        }
        named |= {name: self.taken.ambient[name] for name in lowered.ambient}
        named |= dict(zip(lowered.parameters, parameters, strict=True))
        named |= {name: self.states[call.binding.own(path)] for name, (path, _) in lowered.states.items()}
        named |= scalar_operands(lowered, call)
        return {node: named[name] for name, node in lowered.placeholders.items()}

    def _error(self, call: Call, node: fx.Node, ours: object, made: Both, low: torch.dtype) -> NodeError:
        source, port = result_of(node)
        site = site_of(source)
        is_packed = bool(self.whole.packed_operands(call, source))
        return NodeError(
            path=call.binding.own(site.path),
            op=site.op.name,
            port=port,
            kernel=self.whole.kernels[self.taken.phase, call.definition, site.path],
            phase=self.taken.phase,
            span=site.span,
            dtype=str(low).removeprefix("torch."),
            error=_distance(ours, made.high),
            reference_error=_distance(made.low, made.high),
            tolerance=TOLERANCE[low] if not is_packed else PACKED_TOLERANCE.get(site.op.name, SUMS_TOLERANCE),
        )


def _distance(actual: object, expected: object) -> float:
    """The error ratio; of the buffers of a state, the largest. Other shapes and NaN are infinitely far away."""
    if isinstance(expected, Tensor):
        fits = isinstance(actual, Tensor) and actual.shape == expected.shape
        error = error_ratio(cast("Tensor", actual), expected) if fits else float("inf")
        return error if error == error else float("inf")
    pairs = zip(cast("State", actual), cast("State", expected), strict=True)
    return max((_distance(one, other) for one, other in pairs), default=0.0)
