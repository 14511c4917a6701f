"""One pass of a Program as machine code: consecutive compiled calls in one native call, the others through torch."""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor

from ...compiler.axes import STREAM, ambient_name, is_of_stream
from ...compiler.native.formats import UNPACKED, Formats
from ...compiler.native.outline import Outline
from ...compiler.native.regions import Part, Region
from ...compiler.native.slots import values_read
from ...compiler.ops.declaration import TensorType
from ...kernels.kernel import Phase
from ...kernels.states import STATES
from ..execute import Executor, State, TorchExecutor, last_rows
from ..named_inputs import axes
from ..storage import Bound
from .abi import CallStruct
from .binding import Binding
from .frame import Frame, Memory, make_frame
from .packing import SOURCES
from .pieces import in_pieces, piece_of
from .team import Team, team, thread_count
from .values import Values

ONE_THREAD_BYTES = 2 << 20
"""Weights that one core reads faster than two agree about it."""
FEW_ROWS = 8
"""Tokens of a small model whose logits are made sooner than the last one's is taken out before."""


class NativePasses(Executor):
    """The part of `NativeExecutor` that makes single passes.

    library: the program, as `open_library` opened it; parameters: of each call; formats: of the matrices that are
    packed; packed: those that are packed already, by call and placeholder; weight_bytes: of the parameters before they
    are packed; slow: what runs the calls that were not compiled, where there are such.
    """

    def __init__(
        self,
        outline: Outline,
        library: ctypes.CDLL,
        parameters: Sequence[tuple[Bound, ...]],
        *,
        dtype: torch.dtype,
        weight_bytes: int,
        formats: Formats = UNPACKED,
        packed: Mapping[str, Tensor] = MappingProxyType({}),
        slow: TorchExecutor | None = None,
    ) -> None:
        self.outline, self.native, self.library = outline, outline.native, library
        self.formats, self.dtype, self.weight_bytes, self.slow = formats, dtype, weight_bytes, slow
        self.binding = Binding(outline=outline, library=library, packed=dict(packed))
        self.binding.bind(parameters)
        self.cached = [path for path, spec in outline.states.items() if STATES[spec.kind].may_be_shorter]
        self.shared = [path for path, spec in outline.states.items() if STATES[spec.kind].reorder == "shared"]
        self.memory = Memory(self.native, library)
        self.gives_float32 = False
        """Whether outputs are given as they were computed, and not in the model's dtype."""

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
        """As `Executor.run`; states are written in place. One thread of Python at a time: others wait."""
        batch, tokens = ambient["position"].shape
        can_cut = not last_token_only or self.outline.tail_is_tokenwise
        with self.team.lock:
            if not (self.outline.runs_in_pieces and can_cut) or tokens <= piece_of(batch):
                return self._pass_over(phase, inputs, ambient, states, kept, last_token_only)
            return in_pieces(
                lambda given, around: self._pass_over(phase, given, around, states, kept, last_token_only),
                inputs,
                ambient,
                self.outline.types,
                last_token_only=last_token_only,
            )

    def _pass_over(
        self,
        phase: Phase,
        inputs: Mapping[str, Tensor],
        ambient: Mapping[str, Tensor],
        states: dict[str, State],
        kept: dict[str, Tensor] | None,
        last_token_only: bool,
    ) -> dict[str, Tensor]:
        is_later = bool(kept)
        ambient, given = {**ambient, **(kept or {})}, {**inputs, **(kept or {})}
        wants_last = last_token_only and ambient["position"].shape[1] > 1 and self.outline.tail_is_tokenwise
        cuts_tail = wants_last and not (self._is_small and ambient["position"].numel() <= FEW_ROWS)
        parts = [part for part in self.outline.regions if not (is_later and self._is_once(part))]
        unreached = self.outline.calls[-1].outputs.values() if cuts_tail else ()
        frame = self._frame(parts, ambient, given, states, without=unreached)
        if not is_later:
            self._make_room(states, frame.values.sizes)
        tail = len(self.outline.calls) - int(cuts_tail)
        was_once: bool | None = None
        for part in parts:
            if self._is_once(part) is not was_once:  # what runs once may put other buffers in the place of a state
                was_once = self._is_once(part)
                self.binding.point_at(states)
            if isinstance(part, Region):
                self._run(frame, part.axis, part.first, min(part.first + part.count, tail) - part.first)
            elif part < tail:
                self._run_in_torch(part, "prefill" if was_once else phase, frame.values, ambient, states)
        if kept is not None and not is_later:
            kept |= {name: cast("Tensor", frame.values.outside[name]) for name in self.outline.kept}
            kept |= {name: tensor for name, tensor in ambient.items() if not is_of_stream(name)}
        if cuts_tail:
            frame = self._run_tail(frame, phase, ambient, states)
        given_out = frame.values.outside.__getitem__ if self.gives_float32 else frame.values.read
        results = {name: cast("Tensor", given_out(value)) for name, value in self._results.items()}
        if not wants_last or cuts_tail:
            return results
        kinds = {name: self.outline.types[value] for name, value in self._results.items()}
        return _at_last(results, kinds, ambient["position"])

    @property
    def takes_other_caches(self) -> bool:
        """Whether keys and values may be kept in another dtype than the model's: all that reads them is in C."""
        return bool(self.cached) and all(isinstance(part, Region) for part in self.outline.regions)

    @property
    def workspace_bytes(self) -> int:
        """Bytes that passes have needed for what lies between weights and results."""
        return self.memory.bytes

    def release(self) -> None:
        """Let go of the tensors that packed ones stand for; what torch runs must not need them."""
        if self.slow is not None:
            self.slow.let_go(self.native.definitions)

    @property
    def team(self) -> Team:
        """The threads that run it: one where a token is so little work that sharing it would take longer."""
        return team(1 if self._is_small else thread_count())

    @property
    def _is_small(self) -> bool:
        """Whether a token is less work than what is done around it."""
        return self.weight_bytes < ONE_THREAD_BYTES

    @cached_property
    def _stream(self) -> list[Part]:
        """What runs for each token."""
        return [part for part in self.outline.regions if not self._is_once(part)]

    @property
    def _results(self) -> Mapping[str, str]:
        """The program's value of each output."""
        return self.outline.outputs

    def _is_once(self, part: Part) -> bool:
        return part.is_once if isinstance(part, Region) else self.outline.calls[part].rate == "once"

    def _frame(
        self,
        parts: Sequence[Part],
        ambient: Mapping[str, Tensor],
        given: Mapping[str, Tensor],
        states: Mapping[str, State],
        *,
        without: Collection[str] = (),
        memory: Memory | None = None,
    ) -> Frame:
        """A pass over some parts of the program.

        given: the model's inputs, and what is kept; without: outputs that it does not reach.
        """
        batch, tokens = ambient["position"].shape
        sizes = {"B": batch, STREAM: tokens}
        for axis in axes(self.outline.inputs):
            position = ambient.get(ambient_name("position", axis.name))
            sizes |= {} if position is None else {axis.name: position.shape[1]}
        cached = next((states[path][0].dtype for path in self.cached if path in states), self.dtype)
        return make_frame(
            self.native,
            self.outline.types,
            self.dtype,
            memory or self.memory,
            without=without,
            axes=dict.fromkeys((STREAM, *(part.axis for part in parts if isinstance(part, Region)))),
            sizes=sizes,
            cache_type=SOURCES[cached],
            sharing=next((batch // len(states[path][0]) for path in self.shared if path in states), 1),
            ambient=ambient,
            given={name: x.float() if x.is_floating_point() else x for name, x in given.items()},
        )

    def _make_room(self, states: dict[str, State], sizes: Mapping[str, int]) -> None:
        """Buffers for the states whose size is known only now, of the tokens that are given once."""
        for call in self.outline.calls:
            definition = self.native.definitions.get(call.definition)
            if definition is None or call.rate != "once":
                continue
            for path, spec in self.outline.interfaces[call.definition].states.values():
                kind = STATES[spec.kind]
                if kind.axis == "once":
                    room = kind.allocate(spec.sizes, sizes["B"], sizes[definition.axis], self.dtype, "cpu")
                    states[call.binding.own(path)] = room

    def _calls_from(self, first: int) -> int:
        """The address of a call and those after it."""
        return ctypes.addressof(self.binding.calls) + first * ctypes.sizeof(CallStruct)

    def _run(self, frame: Frame, axis: str, first: int, count: int) -> None:
        if count > 0:
            passed = ctypes.addressof(frame.passes[axis])
            self.library.llmc_run(self.team.pointer, passed, self._calls_from(first), count)

    def _run_in_torch(
        self, index: int, phase: Phase, values: Values, ambient: Mapping[str, Tensor], states: dict[str, State]
    ) -> None:
        """A call that could not be compiled."""
        assert self.slow is not None
        step = self.slow.steps[index]
        given = [
            [values.read(v) for v in value] if isinstance(value, tuple) else values.read(value) for value in step.inputs
        ]
        results = self.slow.call(step, phase, given, ambient, states)
        for path in step.states:
            states[path] = tuple(values.owned(buffer).contiguous() for buffer in states[path])  # as C reads them
        for name, value in zip(step.outputs, results, strict=True):
            values.write(name, value)

    def _run_tail(self, frame: Frame, phase: Phase, ambient: Mapping[str, Tensor], states: dict[str, State]) -> Frame:
        """The last call on each row's last token alone: what it reads is gathered into memory of its own."""
        index, call, outside = len(self.outline.calls) - 1, self.outline.calls[-1], frame.values.outside
        whole = {
            name: cast("Tensor", outside[name]) if name in outside else frame.values.view(name)
            for name in values_read(call)
        }
        read = _at_last(whole, self.outline.types, ambient["position"])
        ambient = {**ambient, "position": ambient["position"].amax(dim=1, keepdim=True)}
        spare = Memory(self.native, self.library)
        given = {name: value for name, value in read.items() if name in self.native.outside}
        tail = self._frame(self.outline.regions[-1:], ambient, given, states, memory=spare)
        for name, value in read.items():
            if name not in self.native.outside:
                tail.values.write(name, value)
        for name in self._results.values():
            if name not in call.outputs.values():
                tail.values.outside[name] = frame.values.outside[name]
        if call.definition in self.native.definitions:
            self._run(tail, STREAM, index, 1)
        else:
            self._run_in_torch(index, phase, tail.values, ambient, states)
        return tail


def _at_last(values: Mapping[str, Tensor], types: Mapping[str, TensorType], position: Tensor) -> dict[str, Tensor]:
    """The values, those that have a row for each token `[B, T, …]` cut to each row's last token `[B, 1, …]`."""
    rows, last = last_rows(position)
    return {name: x[rows, last][:, None] if types[name].shape[:2] == ("B", STREAM) else x for name, x in values.items()}
